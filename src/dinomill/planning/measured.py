"""What each stage's last run took, so that `dinomill plan` can say what the next one will.

<work>/measured.json    by stage: seconds, images, peak memory
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from dinomill.config import Config
from dinomill.errors import StorageError
from dinomill.handles import HANDLE_NAME
from dinomill.stages import WRITES
from dinomill.storage.atomic import write_text

NAME = "measured.json"
_SAMPLED_EVERY = 1.0  # seconds between two looks at the memory


class StageMeasured(Config):
    """What one stage took."""

    seconds: float = Field(ge=0, description="from its start to its end")
    images: int = Field(ge=0, description="images that went through it, each time that they did; 0: none")
    memory_bytes: int = Field(ge=0, description="peak of its processes together, bytes")
    made: str = Field(default="", description="hash of the configuration of what it made")


class Measured(Config):
    """What the stages took."""

    stages: dict[str, StageMeasured] = Field(default_factory=dict, description="by name")

    @classmethod
    def load(cls, work: Path) -> Measured:
        """What is recorded below a work folder: nothing where nothing is, or it cannot be read."""
        try:
            return cls.model_validate_json((work / NAME).read_bytes())
        except (OSError, ValidationError):
            return cls()

    def record(self, stage: str, took: StageMeasured, work: Path) -> None:
        """Keep what a stage took.

        A stage that finds its result made, or goes on after a kill, takes less than making it: for the same result the
        longest time is the one that tells what making it takes.
        """
        before = self.stages.get(stage)
        if before and before.made and before.made == took.made and before.seconds > took.seconds:
            return
        kept = Measured(stages={**self.stages, stage: took})
        try:
            write_text(work / NAME, kept.model_dump_json(indent=2) + "\n")
        except (OSError, StorageError):
            return  # a run does not fail for its stopwatch


class Stopwatch:
    """Time and memory of the stage that runs now.

    Args:
        folders: Where stages write, by the names in globals.yml.
    """

    def __init__(self, folders: Mapping[str, Any]) -> None:
        self._folders = {name: Path(str(place)) for name, place in folders.items()}
        self._stage: str | None = None
        self._start = 0.0
        self._peak = 0
        self._done = threading.Event()

    def begin(self, stage: str) -> None:
        """Start it."""
        self._stage, self._start, self._peak, self._done = stage, time.monotonic(), 0, threading.Event()
        threading.Thread(target=self._watch, args=(self._done,), name="dinomill-memory", daemon=True).start()

    def end(self, *, finished: bool) -> None:
        """Stop it, and keep what it shows when the stage finished."""
        stage, self._stage = self._stage, None
        self._done.set()
        work = self._folders.get("work")
        if stage is None or not finished or work is None:
            return
        self._peak = max(self._peak, memory_of_family())  # a short stage may end before the first look
        made, images = self._result(stage)
        seconds = round(time.monotonic() - self._start, 1)
        took = StageMeasured(seconds=seconds, images=images, memory_bytes=self._peak, made=made)
        Measured.load(work).record(stage, took, work)

    def _watch(self, done: threading.Event) -> None:
        while True:
            self._peak = max(self._peak, memory_of_family())
            if done.wait(_SAMPLED_EVERY):
                return

    def _result(self, stage: str) -> tuple[str, int]:
        """The hash of what the stage made, and how many images went through it."""
        folder = self._folders.get(WRITES[stage])
        try:
            handle = json.loads((folder / HANDLE_NAME).read_text(encoding="utf-8")) if folder else {}
        except (OSError, ValueError):
            handle = {}
        return str(handle.get("made_of") or handle.get("config_hash", "")), _images(handle)


def _images(handle: Mapping[str, Any]) -> int:
    """Images that a handle counts: looked at, seen in training, or measured."""
    students = handle.get("students")
    if isinstance(students, Mapping) and students:
        return _images(next(iter(students.values())))
    measured = handle.get("bank_images", 0) + handle.get("query_images", 0)
    return int(handle.get("pool_images") or handle.get("images_seen") or measured)


def memory_of_family() -> int:
    """Memory of this process and all that it started, bytes; pages that several share count once for each."""
    import psutil

    total = 0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total
