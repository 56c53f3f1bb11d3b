"""Which stages will run: those asked for, and, under `dvc repro`, those that it will start afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinomill.planning.checks.memory import recall, remember
from dinomill.stages import STAGES

# Seconds: the start of a process is reckoned from that of the machine, which moves when its clock is set.
_CLOCK = 30.0

if TYPE_CHECKING:
    import psutil


def scope(
    stages: Iterable[str],
    environment: Mapping[str, str] = os.environ,
    command: Sequence[str] | None = None,
    *,
    given_teacher: bool = False,
) -> tuple[str, ...]:
    """The stages that have to be checked, in their order.

    `dvc repro` starts a stage at a time; what is wrong with a later one is to be said before the first, not after it.

    Args:
        stages: Those of this run.
        environment: DVC names the stage that it runs in ``DVC_STAGE``.
        command: The command line of `dvc repro`, by default that of the process above: it says where DVC will end.
        given_teacher: Whether `distillation.teacher` names weights: DVC then has no stage `pretraining`.
    """
    asked = [stage for stage in STAGES if stage in set(stages)]
    running = environment.get("DVC_STAGE", "").rpartition(":")[2]
    if running not in asked:
        return tuple(asked)
    if command is None:
        above = process_of_dvc()
        command = above.cmdline() if above else ()
    words = list(command)
    targets = [name for word in words if (name := word.rpartition(":")[2]) in STAGES]
    end = len(STAGES)
    if targets and "--downstream" not in words:
        end = max(STAGES.index(name) for name in targets) + 1
    follow = STAGES[STAGES.index(running) : max(end, STAGES.index(running) + 1)]
    return tuple(one for one in follow if one in asked or not (given_teacher and one == "pretraining"))


def process_of_dvc() -> psutil.Process | None:
    """The nearest `dvc repro` (or `dvc exp run`) above this process."""
    import psutil

    try:
        return next((one for one in psutil.Process().parents() if {"repro", "exp"} & set(one.cmdline())), None)
    except psutil.Error:
        return None


def unsaid(sentences: Sequence[str], remembered: Path, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Those that were not said yet: within one `dvc repro`, whose stages are runs of their own, each is said once.

    Args:
        sentences: What is to be said.
        remembered: Where it is kept what was said, and to whom.
        environment: As for `scope`.
    """
    above = process_of_dvc() if "DVC_STAGE" in environment else None
    if above is None:
        return list(sentences)
    listener = [above.pid, above.create_time()]
    try:
        document = json.loads(recall(remembered) or "")
        (pid, began), known = document["to"], set(document["said"])
        said = known if pid == above.pid and abs(began - above.create_time()) < _CLOCK else set()
    except (ValueError, KeyError, TypeError):
        said = set()
    remember(remembered, json.dumps({"to": listener, "said": sorted(said | set(sentences))}) + "\n")
    return [sentence for sentence in sentences if sentence not in said]
