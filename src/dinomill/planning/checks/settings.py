"""What the parameters say by themselves: keys that no stage has, stages without any, values that are not valid."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from dinomill.errors import DinomillError
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request
from dinomill.stages import STAGES


def check_settings(request: Request) -> Iterator[Problem]:
    """Of every stage, whether it runs or not: Kedro reads them all before each."""
    for key in request.parameters:
        if key not in STAGES:
            yield unknown(str(key))
    for stage in STAGES:
        if request.parameters.get(stage) is None:
            yield missing(stage)
            continue
        config = request.config_of(stage)
        if isinstance(config, DinomillError):
            yield Problem.of(config, "")  # its message names keys and files itself


def unknown(key: str) -> Problem:
    """A top-level key of the parameters that is no stage."""
    close = difflib.get_close_matches(key, STAGES, n=1, cutoff=0.4)
    return Problem(
        key,
        f"Unknown parameter {key!r}" + (f"; did you mean {close[0]!r}?" if close else "."),
        expected=f"one of the stages: {', '.join(STAGES)}",
        action="correct the key there",
    )


def missing(name: str) -> Problem:
    """A stage, or a part of one, that no file says anything about, or that one has emptied."""
    return Problem(
        name,
        f"There are no parameters {name!r}.",
        expected=f"a top-level key `{name.split('.')[0]}` with its settings",
        action="restore it there, or take the empty key out",
    )
