"""What handles say in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.handles import EvaluationHandle
from dinomill.scores import Difference
from tests.tables import MEASURES, row

UP, DOWN, LEVEL = ((value, value - 0.01, value + 0.01) for value in (0.05, -0.035, 0.0))


@pytest.mark.parametrize(
    ("knn", "linear", "said"),
    [
        (UP, LEVEL, "is better than the weights"),
        (LEVEL, UP, "is better than the weights"),
        (DOWN, LEVEL, "is worse than the weights"),
        (LEVEL, LEVEL, "does not surely differ from the weights"),
        (UP, DOWN, "is better by neighbours, and worse by a linear probe, than the weights"),
        (DOWN, UP, "is better by a linear probe, and worse by neighbours, than the weights"),
    ],
)
def test_whether_it_helped_is_said_by_both_measures(
    knn: tuple[float, float, float], linear: tuple[float, float, float], said: str
) -> None:
    """A model that had surely lost by the linear probe was called better, for its neighbours alone."""
    gain = {
        name: Difference(value=value, low=low, high=high)
        for name, (value, low, high) in (("knn", knn), ("linear", linear))
    }
    handle = EvaluationHandle(
        folder=Path("evaluation"),
        made_of="0",
        scores=(row("starting weights", "start", knn=0.7, linear=0.8),),
        measures=MEASURES,
        gains={"teacher_over_start": gain},
        bank_images=10,
        query_images=10,
        classes=("a", "b"),
        metrics=Path("metrics.json"),
    )
    sentence = handle.helped()
    assert sentence is not None
    assert f"The adapted model {said} that it started from: kNN" in sentence


@pytest.mark.parametrize(("pixels", "said"), [(0.589, True), (0.516, True), (0.515, False), (None, False)])
def test_it_is_said_where_the_pixels_themselves_do_as_well(pixels: float | None, said: bool) -> None:
    """A report praised 51.6% over random weights, and left the 58.9% of the pixels to its table."""
    scores = [row("teacher", "teacher", knn=0.516, linear=0.536)]
    if pixels is not None:
        scores.append(row("pixels", "pixels", knn=pixels, linear=0.5))
    handle = EvaluationHandle(
        folder=Path("evaluation"),
        made_of="0",
        scores=tuple(scores),
        measures=MEASURES,
        gains={},
        bank_images=10,
        query_images=10,
        classes=("a", "b"),
        metrics=Path("metrics.json"),
    )
    sentence = handle.behind_pixels()
    assert (sentence is not None) == said
    assert not said or f"reach {pixels:.1%}" in str(sentence)
