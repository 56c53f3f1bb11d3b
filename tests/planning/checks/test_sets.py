from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dinomill.planning.checks import Problem
from tests.planning.checks.conftest import stopping, write_labelled

Found = Callable[..., list[Problem]]


def test_a_further_set_that_is_as_it_should_be_is_taken(root: Path, found: Found) -> None:
    write_labelled(root / "raw/flowers")
    assert stopping(found(evaluation={"sets": {"flowers": {"labelled": "raw/flowers"}}})) == []


@pytest.mark.parametrize(
    ("one", "key", "said"),
    [
        ({"labelled": "raw/nowhere"}, "evaluation.sets.moths.labelled", "no labelled split"),
        ({"labelled": "raw/nowhere.csv"}, "evaluation.sets.moths.labelled", "There is no"),
        (
            {"labelled": "raw", "bank_split": "a", "query_split": "a"},
            "evaluation.sets.moths.query_split",
            "very images",
        ),
    ],
)
def test_what_evaluation_would_say_after_hours_is_said_now(
    root: Path, found: Found, one: dict[str, str], key: str, said: str
) -> None:
    (problem,) = stopping(found(evaluation={"sets": {"moths": one}}))
    assert problem.key == key
    assert said in problem.problem
    assert "globals.yml" not in str(problem.action)


def test_a_class_of_one_image_is_said(root: Path, found: Found) -> None:
    for path in sorted((root / "raw/labelled/train/a").iterdir())[1:]:
        path.unlink()
    problems = [problem for problem in found() if "one image alone" in problem.problem]
    assert len(problems) == 1 and problems[0].warning
    assert problems[0].found == "a"
