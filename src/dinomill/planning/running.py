"""Stages that run now, in whichever environment of the project: two that share results do not run at once.

<work>/locks/<stage>.lock      held by the process that runs the stage

A stage empties its folders when it begins. Another that reads them meanwhile would take half of one result and half of
another for one; where they have nothing to do with each other both run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dinomill.errors import InputError
from dinomill.layers import CONF, Layers, environments
from dinomill.planning.checks.others import WRITES
from dinomill.stages import STAGES
from dinomill.storage.lock import holder

# The folders that a stage reads, as globals.yml calls them: a test holds them against the pipelines.
READS: dict[str, tuple[str, ...]] = {
    "sample": (),
    "curation": ("sample",),
    "pretraining": ("curated",),
    "distillation": ("curated", "teacher"),
    "evaluation": ("curated", "teacher", "students"),
    "registration": ("curated", "teacher", "students", "evaluation"),
    "packaging": ("curated", "evaluation", "registration", "students", "teacher"),
    "reporting": ("curated", "teacher", "students", "evaluation", "registration", "package"),
}


class Running(NamedTuple):
    """A stage at work."""

    stage: str
    env: str | None
    process: int
    folders: Mapping[str, Path]  # of its environment

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.stage}{f' of {self.env}' if self.env else ''} (process {self.process})"


def running(conf: Path = CONF) -> Iterator[Running]:
    """Every stage that another process runs now."""
    seen: set[Path] = set()
    for env in (None, *environments(conf)):
        folders = {name: Path(place) for name, place in (Layers(env, conf=conf).globals.get("folders") or {}).items()}
        locks = folders.get("work", Path("data/work")) / "locks"
        for stage in STAGES:
            lock = locks / f"{stage}.lock"
            if lock in seen or not lock.exists():
                continue
            seen.add(lock)
            process = holder(lock)
            if process is not None and process != os.getpid():
                yield Running(stage, env, process, folders)


def refuse_conflicts(stage: str, folders: Mapping[str, Path], conf: Path = CONF) -> None:
    """Refuse to run a stage while another process runs one that writes what it reads, or reads what it writes.

    Args:
        stage: That is about to run; its own lock is held already, so that of two that begin at once none overlooks
            the other.
        folders: Of its environment.
        conf: The project's configuration.

    Raises:
        InputError: Naming the other.
    """
    writes, reads = _places(stage, folders)
    for other in running(conf):
        if other.stage == stage and other.folders.get("work") == folders.get("work"):
            continue  # its lock is ours: a thread of this process, or a race that the lock itself decides
        theirs, read = _places(other.stage, other.folders)
        for ours, what in ((reads & theirs, "writes"), (writes & read, "reads"), (writes & theirs, "writes")):
            if ours:
                raise InputError(
                    f"The stage {stage} cannot run now: another process {what} {min(ours)} at this moment.",
                    found=other.shown,
                    action="wait for its end and run the same command again; stages that share no results run at once",
                )


def refuse_dvc(folders: Mapping[str, Path], conf: Path = CONF) -> None:
    """Refuse `dvc repro` while another process runs a stage here: DVC removes what a stale stage made before it starts.

    Args:
        folders: Of the environment whose stages DVC would run.
        conf: The project's configuration.

    Raises:
        InputError: Naming the stage that runs.
    """
    ours = {os.path.realpath(place) for name, place in folders.items() if name not in ("work", "cache")}
    for other in running(conf):
        writes, reads = _places(other.stage, other.folders)
        if used := ours & (writes | reads):
            raise InputError(
                "DVC cannot run stages now: another process is at work on the same results.",
                found=f"{other.shown}, which uses {min(used)}",
                action="wait for its end and run the same command again",
            )


def _places(stage: str, folders: Mapping[str, Path]) -> tuple[set[str], set[str]]:
    """What a stage writes and what it reads, as absolute paths without links."""
    writes, reads = (
        {os.path.realpath(folders[name]) for name in table[stage] if name in folders} for table in (WRITES, READS)
    )
    return writes, reads
