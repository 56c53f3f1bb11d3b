"""What is told of a training while it runs: to the curve, to MLflow and to the terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dinomill.tracking import Run
from dinomill.training.health import Reading, Verdict
from dinomill.training.history import History, Recorder
from dinomill.training.parallel import World
from dinomill.training.progress import Clock, ProgressBar, machine_load, memory_gb
from dinomill.training.schedules import ScheduleValues
from dinomill.training.told import Told, shown


@dataclasses.dataclass
class Reporter:
    """Writes rows everywhere at once.

    Args:
        batch_size: Images a step, over all processes.
        done: Steps that were done when this process began.
        world: The processes.
        history: The curve.
        run: The MLflow run.
        bar: The terminal.
        clock: Where the time went.
        again: The step from which on the steps are made again with other images: their rows replace what the run has.
        whose: Which of several students the monitor looks at, before what it says.
    """

    batch_size: int
    done: int
    world: World
    history: History
    run: Run
    bar: ProgressBar
    clock: Clock
    again: int | None = None
    whose: str = ""

    def __post_init__(self) -> None:
        self._last = self.done
        self._told = Told(self.run, self.again)
        # A continued run goes on in its MLflow run, which lacks some rows at most; a new one gets the whole curve.
        self.run.log_metrics([(step, row) for step, row in self.history.by_step() if self._told.is_new(step, row)])

    def steps(self, recorder: Recorder, values: ScheduleValues, step: int, *, unreadable: int = 0) -> None:
        """A row on the steps since the last one, read already: means of the loss terms, schedules, speed.

        Args:
            recorder: Of the terms.
            values: Of the schedules, at the last of the steps.
            step: Steps done.
            unreadable: Images that could not be read since the first step; shown where there are any.
        """
        scheduled = {k: v for k, v in dataclasses.asdict(values).items() if k != "step" and v is not None}
        seconds, data_wait = self.clock.read()
        speed = {
            "images_per_second": (step - self._last) * self.batch_size / seconds,
            "data_wait": data_wait,
            "memory_gb": memory_gb(self.world.device),
            **machine_load(self.world.device),
        }
        self._last = step
        lost = {"unreadable": float(unreadable)} if unreadable else {}
        row = {**recorder.means(), **scheduled, **speed, **lost}
        self._write(step, row)
        if "loss" in row:  # else every update since the last row was left out
            self.bar.report(step, row)

    def reading(self, reading: Reading, verdict: Verdict, picture: Path | None) -> None:
        """A row on a look of the monitor, with the verdict in words; its picture goes to MLflow."""
        step = reading.step
        self._write(step, reading.row(), {"verdict": verdict.state.value, "reason": verdict.reason})
        self.bar.say(f"step {step:,}: {self.whose}{verdict}")
        self.run.set_tags({"health": f"step {step:,}: {verdict}"})
        if picture is not None and self.run.writes:
            self.run.log_artifacts(picture, "looks")

    def _write(self, step: int, row: dict[str, float], words: dict[str, str] | None = None) -> None:
        self.history.append({"step": step, "images": step * self.batch_size, **row, **(words or {})})
        if self._told.is_new(step, row):
            self.run.log_metrics(shown(row), step)
