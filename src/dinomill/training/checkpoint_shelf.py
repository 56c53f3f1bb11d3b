"""The folder of checkpoints: which there are, which stay, which is the best. The main process alone changes it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from dinomill.storage.atomic import storage_errors, write_text
from dinomill.training.checkpoint_files import META_NAME

BEST_NAME = "best.json"

_NAME = re.compile(r"step_(\d{8,})")


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder; None for one of another name, such as a copy that somebody made beside it."""
    found = _NAME.fullmatch(name)
    return None if found is None else int(found[1])


@dataclass(frozen=True)
class Best:
    """A checkpoint that the monitor measured best."""

    step: int
    measure: str
    value: float


class Shelf:
    """The complete checkpoints of a folder.

    Args:
        folder: ``<work>/checkpoints``.
        keep: How many of the newest to keep, besides the best.
        keep_every: One every so many steps stays for good; 0: none.
    """

    def __init__(self, folder: Path, *, keep: int = 2, keep_every: int = 0) -> None:
        self.folder = folder
        self._keep, self._keep_every = keep, keep_every

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        found = (step_of(path.parent.name) for path in self.folder.glob(f"step_*/{META_NAME}"))
        return sorted(step for step in found if step is not None)

    def best(self) -> Best | None:
        """The best checkpoint that is there, or None."""
        try:
            best = Best(**json.loads((self.folder / BEST_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return best if best.step in self.steps() else None

    def put(self, temporary: Path, step: int, best: Best | None) -> None:
        """Take in a checkpoint that is written, and remove those that are not to stay.

        Raises:
            StorageError: When the folder cannot be written.
        """
        target = self.path(step)
        with storage_errors(target):
            # The same step again: a run that was continued from before it and is bit for bit the same.
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        if best is not None:
            write_text(self.folder / BEST_NAME, json.dumps(asdict(best)))
        self._prune(step)

    def forget_best(self) -> None:
        """The best is not known any more."""
        (self.folder / BEST_NAME).unlink(missing_ok=True)

    def _prune(self, now: int) -> None:
        best, steps = self.best(), self.steps()
        # What lies beyond is of a run that was longer, or damaged: it must not push out what is written now.
        until = [step for step in steps if step <= now]
        kept = {*until[-self._keep :], *steps[len(until) :], *([best.step] if best else [])}
        kept |= {step for step in steps if self._keep_every and step % self._keep_every == 0}
        for step in steps:
            if step not in kept:
                # Without its meta.json a folder does not count, so a removal that breaks off leaves nothing half valid.
                (self.path(step) / META_NAME).unlink(missing_ok=True)
        folders = [path for path in self.folder.glob("step_*") if step_of(path.name) is not None]
        for path in [*folders, *self.folder.glob(".step_*.tmp")]:
            if not (path / META_NAME).exists():
                shutil.rmtree(path, ignore_errors=True)
