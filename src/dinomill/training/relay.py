"""What the workers of a training write to files, told to MLflow by the process that waits for them.

A store with a password, or one that compute nodes do not reach, is nothing for workers: they get no secret. A SQLite
store of this machine they write themselves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dinomill.errors import DinomillError
from dinomill.tracking import Run
from dinomill.training import pictures
from dinomill.training.history import History
from dinomill.training.job import TrainingJob
from dinomill.training.not_finite import read_detours
from dinomill.training.told import Told, shown

log = logging.getLogger(__name__)

_SECONDS = 10.0

# The workers' own tracking is off: no run, no store.
NOT_TRACKED = {"MLFLOW_RUN_ID": "", "MLFLOW_TRACKING_URI": ""}


class Relay:
    """Passes on what is new in the work folder.

    Args:
        job: Whose folder it is.
        run: The MLflow run.
    """

    def __init__(self, job: TrainingJob, run: Run) -> None:
        self._work, self._run, self._until = job.work, run, job.recipe.steps
        self._told = Told(run)
        self._detours = len(read_detours(job.work))

    def pass_on(self) -> None:
        """Tell the run each row, verdict and picture that it lacks."""
        detours = read_detours(self._work)
        if len(detours) > self._detours:
            self._told.go_back(detours[-1].begins)
        self._detours = len(detours)
        history = History(self._work / "history.jsonl", steps=self._until, writes=False)
        words = {row["step"]: row for row in history.rows if "verdict" in row}
        new = [(step, row) for step, row in history.by_step() if self._told.is_new(step, row)]
        if not new:
            return
        self._run.log_metrics([(step, shown(row)) for step, row in new])
        for step, row in new:
            self._told.note(step, row)
        looks = [step for step, _ in new if step in words]
        if looks:
            self._look(looks, words[looks[-1]])

    def _look(self, steps: list[int], last: dict[str, Any]) -> None:
        self._run.set_tags({"health": f"step {last['step']:,}: {last['verdict']}: {last['reason']}"})
        for step in steps:
            picture: Path = self._work / pictures.name(step)
            if picture.is_file():
                self._run.log_artifacts(picture, "looks")


@contextmanager
def relayed(job: TrainingJob, run: Run, seconds: float = _SECONDS) -> Iterator[None]:
    """Within the block a thread passes on what the workers write; at its end all of it is."""
    relay, ended = Relay(job, run), threading.Event()

    def again_and_again() -> None:
        while not ended.wait(seconds):
            _try(relay)

    thread = threading.Thread(target=again_and_again, daemon=True, name="dinomill-relay")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _try(relay)


def _try(relay: Relay) -> None:
    """A store that is away, or a file that is being written, is for the next time."""
    try:
        relay.pass_on()
    except (DinomillError, OSError, ValueError, KeyError) as error:
        log.warning("What the training has written is told to MLflow later: %s", error)
