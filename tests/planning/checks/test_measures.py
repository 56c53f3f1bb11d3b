from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dinomill.planning.checks import Request
from dinomill.planning.checks.measures import check_measures

Ask = Callable[..., Request]


@pytest.mark.parametrize(
    ("changes", "key", "warning"),
    [
        ({"evaluation": {"query_split": "train"}}, "evaluation.query_split", False),
        (
            {"distillation": {"runtime": {"export": "best", "monitor": {"every": 0}}}},
            "distillation.runtime.export",
            False,
        ),
        (
            {"registration": {"gate": {"min_gain_over_random": 101}}},
            "registration.gate.min_gain_over_random",
            False,
        ),
        ({"pretraining": {"name": "small"}}, "distillation.students.small", True),
        ({"distillation": {"students": {"teacher": {"depth": 1}}}}, "distillation.students.teacher", False),
        (
            {"registration": {"gate": {"max_drop_from_start": 0.5}}},
            "registration.gate.max_drop_from_start",
            True,
        ),
    ],
)
def test_what_would_measure_nothing_or_nothing_can_meet(
    ask: Ask, changes: dict[str, Any], key: str, warning: bool
) -> None:
    assert [(problem.key, problem.warning) for problem in check_measures(ask(**changes))] == [(key, warning)]


def test_the_projects_own_measures(ask: Ask) -> None:
    assert list(check_measures(ask())) == []
