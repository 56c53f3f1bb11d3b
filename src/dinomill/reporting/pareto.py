"""What a network costs against what it reaches: which of the rows nobody beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dinomill.reporting.names import display_name
from dinomill.reporting.plane import Dot, scatter
from dinomill.scores import Figure, Measure, ModelScore, ScoreTable

# Kinds with their colours: what could be put to use. Pixels are no network, random weights no candidate.
_TONES = {"teacher": 1, "student": 2, "reference": 3, "start": 4, "champion": 5, "model": 1}
_FEWEST = 3  # two points say no more than the table
_SPEED = "images_per_second_"


@dataclass(frozen=True)
class Point:
    """A row of the table as a point."""

    name: str
    kind: str
    cost: float
    figure: Figure
    on_front: bool


@dataclass(frozen=True)
class Tradeoff:
    """One plot: a measure against a cost."""

    title: str
    svg: str
    sentence: str
    note: str  # how the cost was taken; empty where that goes without saying
    points: tuple[Point, ...]


def front(costs: Sequence[float], values: Sequence[float], *, more_is_better: bool = True) -> list[bool]:
    """Which points no other one beats: none is cheaper and as good, or better at the same cost.

    Args:
        costs: Less is better.
        values: What is reached.
        more_is_better: Of the values.
    """
    sign = 1 if more_is_better else -1
    order = sorted(range(len(costs)), key=lambda index: (costs[index], -sign * values[index]))
    best, at = float("-inf"), 0.0
    found = [False] * len(costs)
    for index in order:
        value = sign * values[index]
        # Equal in both: neither beats the other.
        if value > best or (value == best and costs[index] == at):
            found[index], best, at = True, value, costs[index]
    return found


def view_tradeoffs(table: ScoreTable) -> tuple[Tradeoff, ...]:
    """The first measure against size, and against the time of one image where that was measured.

    A plot is left out where fewer than three networks have that cost, or all the same.
    """
    if not table.measures:
        return ()
    measure = table.measures[0]
    if measure.name.startswith(_SPEED) or measure.name == "size":
        return ()
    rows = [row for row in table.scores if row.kind in _TONES]
    found = [_tradeoff(measure, "size", "parameters, millions", [(row, row.parameters / 1e6) for row in rows], "")]
    speed = next((one for one in table.measures if one.name.startswith(_SPEED)), None)
    if speed is not None:
        batch = speed.name.removeprefix(_SPEED)
        times = [(row, 1000 / row.value(speed.name)) for row in rows if row.value(speed.name) > 0]
        label = "milliseconds an image" + ("" if batch == "1" else f", batch {batch}")
        found.append(_tradeoff(measure, "time", label, times, speed.note))
    return tuple(one for one in found if one is not None)


def _tradeoff(
    measure: Measure, cost: str, label: str, rows: Sequence[tuple[ModelScore, float]], note: str
) -> Tradeoff | None:
    rows = [(row, value) for row, value in rows if value > 0]
    if len(rows) < _FEWEST or len({value for _, value in rows}) < 2:
        return None
    values = [row.value(measure.name) for row, _ in rows]
    on_front = front([value for _, value in rows], values, more_is_better=measure.higher_is_better)
    points = tuple(
        Point(display_name(row), row.kind, value, row.scores[measure.name], best)
        for (row, value), best in zip(rows, on_front, strict=True)
    )
    dots = [Dot(one.name, one.cost, one.figure, _TONES[one.kind], one.on_front) for one in points]
    sentence = _sentence(points, "smaller" if cost == "size" else "faster")
    svg = scatter(dots, measure, x_label=label, title=f"{measure.head} against {label}. {sentence}")
    less = "" if measure.higher_is_better else "; less is better"
    return Tradeoff(f"{measure.head} against {cost}{less}", svg, sentence, note, points)


def _sentence(points: Sequence[Point], cheaper: str) -> str:
    """Who is on the front and who is not, for those that cannot see the plot, too."""
    best = sorted((one for one in points if one.on_front), key=lambda one: one.cost)
    beaten = [one.name for one in points if not one.on_front]
    said = f"Nothing here is both {cheaper} and better than {_listed([one.name for one in best])}."
    return f"{said} Beaten in both: {_listed(beaten)}." if beaten else said


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
