"""Which stages will run: those asked for, and, under `dvc repro`, those that it will start afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from dinomill.stages import STAGES


def scope(
    stages: Iterable[str], environment: Mapping[str, str] = os.environ, command: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The stages that have to be checked, in their order.

    `dvc repro` starts a stage at a time; what is wrong with a later one is to be said before the first, not after it.

    Args:
        stages: Those of this run.
        environment: DVC names the stage that it runs in ``DVC_STAGE``.
        command: The command line of `dvc repro`, by default that of the process above: it says where DVC will end.
    """
    asked = [stage for stage in STAGES if stage in set(stages)]
    running = environment.get("DVC_STAGE", "").rpartition(":")[2]
    if running not in asked:
        return tuple(asked)
    words = list(_command_above() if command is None else command)
    targets = [name for word in words if (name := word.rpartition(":")[2]) in STAGES]
    end = len(STAGES)
    if targets and "--downstream" not in words:
        end = max(STAGES.index(name) for name in targets) + 1
    return STAGES[STAGES.index(running) : max(end, STAGES.index(running) + 1)]


def _command_above() -> list[str]:
    """The command line of the nearest `dvc repro` (or `dvc exp run`) above this process; empty when there is none."""
    import psutil

    try:
        for process in psutil.Process().parents():
            words: list[str] = process.cmdline()
            if {"repro", "exp"} & set(words):
                return words
    except psutil.Error:
        pass
    return []
