from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from dinomill.reporting.pareto import front, view_tradeoffs
from dinomill.scores import Figure, Measure, ModelScore, ScoreTable

KNN = Measure(name="knn", title="kNN")
SPEED = Measure(name="images_per_second_1", title="speed, batch 1", percent=False, unit="images/s", note="a <chip>")


def _brute(costs: list[float], values: list[float]) -> list[bool]:
    """By the definition: a point is beaten by one that is no worse in both and better in one."""
    points = list(zip(costs, values, strict=True))
    return [not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points) for cost, value in points]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_front_is_that_of_all_pairs(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    # With few levels many points share a cost, a value or both.
    costs = random.integers(1, levels + 1, 30).astype(float).tolist()
    values = (random.integers(0, levels, 30) / levels).tolist()
    assert front(costs, values) == _brute(costs, values)
    assert front(costs, values, more_is_better=False) == _brute(costs, [-value for value in values])


def _table(rows: list[tuple[str, str, int, float, float]], *measures: Measure) -> ScoreTable:
    scores = tuple(
        ModelScore(
            model=name,
            kind=kind,
            parameters=parameters,
            scores={
                "knn": Figure(value=value, low=value - 0.02, high=value + 0.02),
                "images_per_second_1": Figure(value=speed, low=speed, high=speed),
            },
        )
        for name, kind, parameters, value, speed in rows
    )
    return ScoreTable(scores=scores, measures=measures)


ROWS = [
    ("raw pixels", "pixels", 0, 0.3, 9000.0),
    ("random initialisation", "random", 600_000, 0.4, 500.0),
    ("net & <co>", "reference", 3_400_000, 0.79, 50.0),
    ("teacher", "teacher", 600_000, 0.70, 400.0),
    ("small", "student", 400_000, 0.67, 800.0),
    ("wide", "student", 700_000, 0.65, 200.0),
]


def test_every_network_that_could_be_used_is_a_point_and_beaten_ones_are_named() -> None:
    size, time = view_tradeoffs(_table(ROWS, KNN, SPEED))
    assert {point.name: (point.cost, point.on_front) for point in size.points} == {
        "net & <co>": (3.4, True),
        "teacher": (0.6, True),
        "student small": (0.4, True),
        "student wide": (0.7, False),
    }
    assert "better than student small, teacher and net & <co>. Beaten in both: student wide." in size.sentence
    assert {point.name: point.cost for point in time.points}["student small"] == pytest.approx(1.25)
    assert time.note == "a <chip>"


def test_places_follow_the_values_and_names_are_escaped() -> None:
    size = view_tradeoffs(_table(ROWS, KNN))[0]
    drawn = ElementTree.fromstring(size.svg)  # well-formed: names are escaped
    assert "net & <co>" in {(one.text or "").strip() for one in drawn.iter()}
    assert "Beaten" in drawn.attrib["aria-label"]
    circles = [one for one in drawn.iter() if one.tag.endswith("circle")]
    by_cost = sorted(zip(size.points, circles, strict=True), key=lambda pair: pair[0].cost)
    for (cheap, one), (dear, other) in pairwise(by_cost):
        assert float(one.attrib["cx"]) < float(other.attrib["cx"])
        higher = float(one.attrib["cy"]) < float(other.attrib["cy"])
        assert higher == (cheap.figure.value > dear.figure.value)
    assert sum(one.attrib["class"].startswith("ring") for one in circles) == 1
    width, height = map(float, drawn.attrib["viewBox"].split()[2:])
    assert all(0 < float(one.attrib["cx"]) < width and 0 < float(one.attrib["cy"]) < height for one in circles)


def test_two_points_are_no_plot() -> None:
    assert view_tradeoffs(_table(ROWS[:2] + ROWS[3:5], KNN)) == ()
    assert view_tradeoffs(_table([(f"n{i}", "student", 100, 0.5, 0.0) for i in range(4)], KNN, SPEED)) == ()
    assert view_tradeoffs(_table(ROWS, SPEED, KNN)) == ()  # speed against speed
    assert view_tradeoffs(ScoreTable()) == ()
