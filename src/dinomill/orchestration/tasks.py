"""A task a stage: what it runs, and which others it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias

Through: TypeAlias = Literal["dvc", "kedro"]

# Stages that compute on a GPU where there is one for hours; the others are not worth its price.
TRAINING = frozenset({"pretraining", "distillation"})


@dataclass(frozen=True)
class Task:
    """A stage as others' schedulers see it.

    Args:
        name: The stage's.
        command: What runs it, in the project's root.
        after: The stages that it waits for, none that another of them waits for already.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...]


def tasks_of(stages: Mapping[str, Mapping[str, Any]], *, env: str | None, file: str, through: Through) -> list[Task]:
    """The tasks of an environment, in an order in which they can run.

    Args:
        stages: As dvc.yaml has them, in order: name → ``cmd``, ``deps``, ``outs``; paths relative to the root.
        env: The environment's name.
        file: Its DVC file.
        through: ``dvc`` runs what is stale and records it in the lock; ``kedro`` runs a stage whenever it is asked to.
    """
    names = [name for name in stages if "--pipelines" in str(stages[name]["cmd"])]
    waits: dict[str, set[str]] = {}
    for index, name in enumerate(names):
        before = names[:index]
        waits[name] = {other for other in before if _reads(stages[name], stages[other])}
    return [
        Task(name, _command(name, env=env, file=file, through=through), _nearest(names, waits[name], waits))
        for name in names
    ]


def _command(name: str, *, env: str | None, file: str, through: Through) -> tuple[str, ...]:
    if through == "dvc":
        return ("dvc", "repro", name if file == "dvc.yaml" else f"{file}:{name}")
    return ("kedro", "run", *(("--env", env) if env else ()), "--pipelines", name)


def _reads(stage: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a dependency is a result of the other stage, or lies in one."""
    outs = [PurePosixPath(next(iter(out)) if isinstance(out, Mapping) else out) for out in other.get("outs", ())]
    return any(PurePosixPath(dep).is_relative_to(out) for dep in stage.get("deps", ()) for out in outs)


def _nearest(order: list[str], named: set[str], waits: Mapping[str, set[str]]) -> tuple[str, ...]:
    def above(name: str) -> set[str]:
        return waits[name].union(*(above(other) for other in waits[name]))

    further = set().union(*(above(name) for name in named)) if named else set()
    return tuple(name for name in order if name in named - further)
