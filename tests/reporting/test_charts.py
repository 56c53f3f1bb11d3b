from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from dinomill.reporting.charts import Interval, Series, dot_plot, line_chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.13, 0.87), (-3, 7), (1e-6, 3e-6), (0, 123456), (5, 5), (0, 0), (-2, -2)]
)
def test_ticks_are_round_few_and_enclose(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low
    assert ticks[-1] >= high
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    leading = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert min(abs(leading - factor) for factor in (1, 2, 2.5, 5)) < 1e-6


def _points(svg: str) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(svg)
    lines = [element.attrib["points"] for element in root.iter() if element.tag.endswith("polyline")]
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]  # type: ignore[misc]


def test_a_line_runs_from_edge_to_edge_and_upwards_is_more() -> None:
    x = np.arange(100.0)
    (line,) = _points(line_chart([Series("loss", x, x * 2)], x_label="images", y_label="loss"))
    assert line[0][0] < line[-1][0]
    assert line[0][1] > line[-1][1]
    assert all(0 <= a <= 640 and 0 <= b <= 260 for a, b in line)


def test_a_noisy_line_is_smoothed_and_a_long_one_thinned() -> None:
    x = np.arange(10_000.0)
    y = np.random.default_rng(0).normal(size=len(x))
    raw, smooth = _points(line_chart([Series("loss", x, y)], x_label="images", y_label="loss"))
    assert len(raw) == len(smooth) == 400
    assert np.std([b for _, b in smooth]) < 0.3 * np.std([b for _, b in raw])


def test_gaps_are_passed_over_and_nothing_is_nothing() -> None:
    x = np.arange(4.0)
    (line,) = _points(line_chart([Series("knn", x, np.array([0.5, np.nan, 0.6, np.nan]))], x_label="", y_label=""))
    assert len(line) == 2
    assert line_chart([Series("knn", x, np.full(4, np.nan))], x_label="", y_label="") == ""
    assert line_chart([], x_label="", y_label="") == ""
    assert dot_plot([]) == ""


def test_names_are_escaped() -> None:
    drawn = ElementTree.fromstring(dot_plot([("a <b> & c", (Interval(0.5, 0.4, 0.6), Interval(0.7, 0.6, 0.8, 2)))]))
    assert "a <b> & c" in {(element.text or "").strip() for element in drawn.iter()}


def test_the_whole_name_of_a_row_has_room_and_a_very_long_one_is_cut() -> None:
    drawn = ElementTree.fromstring(dot_plot([("efficientnet-lite0-64px", (Interval(0.5, 0.4, 0.6),)), ("n" * 90, ())]))
    labels = [one for one in drawn.iter() if one.get("class") == "label"]
    assert [one.text for one in labels] == ["efficientnet-lite0-64px", "n" * 39 + "…"]
    assert all(float(one.get("x", 0)) >= 7 * len(one.text or "") for one in labels)
