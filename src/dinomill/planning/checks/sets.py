"""The further labelled sets of an evaluation: listed now, so that a wrong path is not found after hours of training."""

from __future__ import annotations

from collections.abc import Iterator

from dinomill.errors import DinomillError
from dinomill.evaluation.sets.base import read_set
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request


def check_sets(request: Request) -> Iterator[Problem]:
    """Every set is of its layout, and scored on other images than it learns from."""
    if not request.runs("evaluation") or request.evaluation is None:
        return
    for name, one in request.evaluation.sets.items():
        key = f"evaluation.sets.{name}"
        limits = one.limits(request.evaluation.limits)
        if request.will_be_made(one.labelled):
            continue
        if limits.bank_split == limits.query_split and one.kind == "classes":
            yield Problem(
                f"{key}.query_split",
                f"{name} would be scored on the very images that its probes learn from.",
                found=f"bank_split and query_split are both {limits.query_split!r}",
                action="name two splits, such as train and test",
            )
            continue
        try:
            read_set(one, name, limits)
        except DinomillError as error:
            action = error.action
            if action and "globals.yml" in action:  # that is where the labelled images are set, not a further set
                action = f"correct {key}.labelled, or its bank_split and query_split"
            yield Problem(f"{key}.labelled", error.problem, error.found, error.expected, action)
