"""Writing checkpoints beside the training: copied by the step, written by a thread, retried where a disk is full."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dinomill.errors import DinomillError, InputError, StorageError, from_row, to_row
from dinomill.storage.atomic import storage_errors
from dinomill.training.agreement import Agreement
from dinomill.training.checkpoint_files import FORMAT, DamagedError, Slice, write_meta, write_part
from dinomill.training.checkpoint_shelf import Best, Shelf
from dinomill.training.parallel import World

log = logging.getLogger(__name__)

# A disk may be full for an hour; what waits to be written lies in memory meanwhile.
RETRY_SECONDS = 60.0
# When there is nothing to train meanwhile: at the end, or when the run is told to stop.
_LAST_TRIES, _LAST_PAUSE = 3, 2.0


@dataclass(frozen=True)
class Saving:
    """A state that waits to be written."""

    step: int
    slices: dict[str, Slice]
    extra: dict[str, Any]
    best: Best | None
    last: bool


class Writer:
    """Writes one state at a time; every process has one, and they write together.

    Args:
        shelf: Where to.
        world: The processes.
        identity: The keys of the job on which the result depends.
        written: Called in the thread of the main process after each checkpoint.
    """

    def __init__(
        self, shelf: Shelf, world: World, identity: Mapping[str, Any], written: Callable[[], None] | None = None
    ) -> None:
        self._shelf, self._world, self._identity = shelf, world, identity
        # The thread's messages must not mix with the training's.
        self._together = Agreement(world, dist.new_group(backend="gloo") if world.size > 1 else None)
        self._written = written
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self.problem: DinomillError | None = None

    def start(self, saving: Saving) -> None:
        """Begin to write; nothing else may be being written."""
        assert self._thread is None
        self.problem = None
        self._hurry.clear()
        self._thread = threading.Thread(target=self._write, args=(saving,), name="dinomill-checkpoint", daemon=True)
        self._thread.start()

    def finish(self, *, hurry: bool, seconds: float | None = None) -> None:
        """Wait until it is written.

        Args:
            hurry: Give up what could not be written until now.
            seconds: How long to wait at most; the other processes may be gone.
        """
        if self._thread is not None:
            if hurry:
                self._hurry.set()
            self._thread.join(seconds)
            self._thread = None

    def _write(self, saving: Saving) -> None:
        """The thread: write, and where that fails say so and try again until there is something newer."""
        tries = 0
        try:
            while True:
                tries += 1
                self.problem = self._attempt(saving)
                if self.problem is None:
                    self._after(saving, tries)
                    return
                again = tries < _LAST_TRIES if saving.last else True
                if self._world.is_main:
                    self._complain(saving, again)
                pause = _LAST_PAUSE if saving.last else RETRY_SECONDS
                if not again or isinstance(self.problem, InputError) or self._told_to_hurry(saving, pause):
                    return
        except Exception as error:  # another process is gone: the training hears of it by itself
            self.problem = StorageError(f"The checkpoint of step {saving.step:,} was not written: {error}")
            log.warning("%s", self.problem)

    def _told_to_hurry(self, saving: Saving, pause: float) -> bool:
        hurried = self._hurry.wait(pause) and not saving.last
        return any(self._together.gathered(hurried))

    def _complain(self, saving: Saving, again: bool) -> None:
        outlook = "it is tried again" if again else "it is given up"
        log.warning("THE CHECKPOINT OF STEP %s WAS NOT WRITTEN; %s.\n%s", f"{saving.step:,}", outlook, self.problem)

    def _after(self, saving: Saving, tries: int) -> None:
        if tries > 1 and self._world.is_main:
            log.warning("The checkpoint of step %s is written now, at the %s. try.", f"{saving.step:,}", tries)
        if self._written is not None and self._world.is_main:
            self._written()

    def _attempt(self, saving: Saving) -> DinomillError | None:
        """Write once; returns the same in every process: None, or what went wrong in one of them."""
        temporary = self._shelf.folder / f".{self._shelf.path(saving.step).name}.tmp"
        begun = self._together.decided(lambda: _answer(lambda: self._begin(temporary)))
        if begun["error"]:
            return from_row(begun["error"])
        own = _answer(lambda: self._write_own(temporary, saving))
        answers = self._together.gathered(own)
        ended = self._together.decided(lambda: _answer(lambda: self._commit(temporary, saving, answers)))
        return from_row(ended["error"]) if ended["error"] else None

    def _begin(self, temporary: Path) -> None:
        with storage_errors(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

    def _write_own(self, temporary: Path, saving: Saving) -> dict[str, Any] | None:
        if not saving.slices:
            return None
        path = temporary / f"part_{self._world.rank:05d}.safetensors"
        try:
            return asdict(write_part(path, saving.slices))
        except DamagedError as error:
            raise InputError(f"The state after step {saving.step:,} is not kept: {error}.") from None

    def _commit(self, temporary: Path, saving: Saving, answers: Sequence[Mapping[str, Any]]) -> None:
        try:
            for rank, answer in enumerate(answers):
                if answer["error"]:
                    error = from_row(answer["error"])
                    if self._world.size > 1:
                        error.problem = f"Process {rank}: {error.problem}"
                    raise error
            meta = {
                "format": FORMAT,
                "step": saving.step,
                "job": self._identity,
                "world_size": self._world.size,
                "extra": json.loads(json.dumps(saving.extra)),
                "torch": torch.__version__,
                "files": [answer["value"] for answer in answers if answer["value"]],
            }
            write_meta(temporary, meta)
            self._shelf.put(temporary, saving.step, saving.best)
        except DinomillError:
            shutil.rmtree(temporary, ignore_errors=True)  # its space is needed
            raise


def _answer(work: Callable[[], Any]) -> dict[str, Any]:
    """What some work gave, or the error that it raised, as plain values: no process leaves the others waiting."""
    try:
        return {"value": work(), "error": None}
    except DinomillError as error:
        return {"value": None, "error": to_row(error)}
    except Exception as error:
        return {"value": None, "error": to_row(StorageError(f"It cannot be written: {type(error).__name__}: {error}"))}
