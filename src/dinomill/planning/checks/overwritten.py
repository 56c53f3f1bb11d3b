"""Networks that a stage reads, in the folder that it writes: they would be lost, and DVC deletes them even before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dinomill.planning.checks.others import WRITES
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request
from dinomill.storage.apart import lies_in, overwritten


def check_overwritten(request: Request) -> Iterator[Problem]:
    """Of the stages that will run."""
    yield from overwritten_by(request, request.stages)


def overwritten_by(request: Request, stages: tuple[str, ...]) -> Iterator[Problem]:
    """What these stages would write over, by their parameters as they are written: nothing is loaded for it."""
    for stage in stages:
        folders = [request.folders[name] for name in WRITES.get(stage, ()) if name in request.folders]
        for key, address in _named(stage, request.parameters.get(stage)):
            for folder in folders:
                if lies_in(address, folder):
                    yield Problem.of(overwritten(key, address, folder), key)
                    break


def _named(stage: str, parameters: Any) -> Iterator[tuple[str, str]]:
    """The networks and labelled sets that a stage reads, with their keys; what is no text is said by `settings`."""
    found = {
        "curation": {"embedding.embedder.network": _find(parameters, "embedding", "embedder", "network")},
        "pretraining": {"initial": _find(parameters, "initial")},
        "distillation": {"teacher": _find(parameters, "teacher")},
        "evaluation": _references(parameters) | _sets(parameters),
    }.get(stage, {})
    for key, address in found.items():
        if isinstance(address, str) and address:
            yield f"{stage}.{key}", address


def _references(parameters: Any) -> dict[str, Any]:
    listed = _find(parameters, "references")
    if not isinstance(listed, list | tuple):
        return {}
    return {f"references.{index}.network": _find(one, "network") for index, one in enumerate(listed)}


def _sets(parameters: Any) -> dict[str, Any]:
    """The labelled images of further sets, which evaluation reads where it might write."""
    named = _find(parameters, "sets")
    return {f"sets.{name}.labelled": _find(one, "labelled") for name, one in named.items()} if named else {}


def _find(values: Any, *keys: str) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
