"""Plots over a logarithmic axis, as inline SVG: points with their front, and what grows with a number of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from dinomill.reporting.charts import nice_ticks
from dinomill.scores import Figure, Measure

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 16, 44
_LETTER, _LINE = 7.4, 14.0  # of a label, pixels
_LONGEST = 30
_LEAST_SPAN = 0.08  # of an axis of fractions
_TENTHS = (1, 2, 5)  # ticks of a decade

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Dot:
    """A point: ``best`` ones are full and joined by the front, others hollow."""

    name: str
    cost: float  # above 0
    figure: Figure
    tone: int
    best: bool


@dataclass(frozen=True)
class Growth:
    """A curve: what is reached with so many images, and between which values it was."""

    name: str
    points: tuple[tuple[float, Figure], ...]
    tone: int


class _Plane:
    """Places of values, and the frame around them.

    Args:
        costs: Along the logarithmic axis, above 0.
        figures: Upwards, with their intervals.
        margin: Factor that the axis reaches beyond the outermost ones, so that dots are not cut in halves.
        least: What the upward axis spans at least: noise drawn large would look like a finding.
    """

    def __init__(self, costs: Sequence[float], figures: Sequence[Figure], margin: float, least: float = 0.0) -> None:
        low, high = min(one.low for one in figures), max(one.high for one in figures)
        room = max(least - (high - low), 0.0) / 2
        self._ticks = nice_ticks(low - room, high + room)
        self._low, self._high = min(costs) / margin, max(costs) * margin

    def across(self, cost: float) -> float:
        share = math.log(cost / self._low) / math.log(self._high / self._low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        ticks = self._ticks
        return _TOP + (ticks[-1] - value) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, measure: Measure, x_label: str, title: str, marks: Sequence[float] | None = None) -> list[str]:
        parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
        for tick in self._ticks:
            y = self.up(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            label = f"{100 * tick:.4g}%" if measure.percent else f"{tick:.4g}"
            parts.append(f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for tick in marks or list(_decades(self._low, self._high)):
            x, floor = self.across(tick), _HEIGHT - _BOTTOM
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 5}"/>')
            parts.append(f'<text class="axis" x="{x:.1f}" y="{floor + 19}" text-anchor="middle">{tick:,.6g}</text>')
        end = _WIDTH - _RIGHT
        parts.append(f'<text class="axis" x="{end}" y="{_HEIGHT - 7}" text-anchor="end">{escape(x_label)}</text>')
        return parts

    def whisker(self, cost: float, figure: Figure, tone: int) -> str:
        x = self.across(cost)
        ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{self.up(figure.low):.1f}" y2="{self.up(figure.high):.1f}"'
        return f'<line class="whisker tone{tone}" {ends}/>' if figure.high > figure.low else ""

    def circle(self, cost: float, value: float, kind: str, radius: float, told: str) -> str:
        place = f'cx="{self.across(cost):.1f}" cy="{self.up(value):.1f}"'
        return f'<circle class="{kind}" {place} r="{radius:g}"><title>{escape(told)}</title></circle>'


def scatter(dots: Sequence[Dot], measure: Measure, *, x_label: str, title: str) -> str:
    """A cost against a measure; an empty string without points.

    Args:
        dots: The points.
        measure: Of the upward axis.
        x_label: Stands under the other one.
        title: All that it shows, for readers that cannot see it.
    """
    if not dots:
        return ""
    plane = _Plane([dot.cost for dot in dots], [dot.figure for dot in dots], 1.25)
    parts = plane.frame(measure, x_label, title)
    parts.append(f'<path class="front" d="{_steps(dots, plane)}"/>')
    for dot in dots:
        parts.append(plane.whisker(dot.cost, dot.figure, dot.tone))
        kind = f"{'dot' if dot.best else 'ring'} tone{dot.tone}"
        told = f"{dot.name}: {dot.figure.show(measure)}; {dot.cost:,.4g} {x_label}"
        parts.append(plane.circle(dot.cost, dot.figure.value, kind, 5, told))
    parts += _labels(dots, plane)
    return "".join([*parts, "</svg>"])


def growth_chart(curves: Sequence[Growth], measure: Measure, *, x_label: str, title: str) -> str:
    """A measure against numbers of images, every number marked; an empty string without two of them.

    Args:
        curves: Lines with the range of every point.
        measure: Of the upward axis.
        x_label: Stands under the other one.
        title: All that it shows, for readers that cannot see it.
    """
    numbers = sorted({number for curve in curves for number, _ in curve.points})
    if len(numbers) < 2:
        return ""
    figures = [figure for curve in curves for _, figure in curve.points]
    plane = _Plane(numbers, figures, 1.08, _LEAST_SPAN if measure.percent else 0.0)
    parts = plane.frame(measure, x_label, title, numbers)
    for curve in curves:
        line = " ".join(f"{plane.across(number):.1f},{plane.up(figure.value):.1f}" for number, figure in curve.points)
        parts.append(f'<polyline class="line tone{curve.tone}" points="{line}"/>')
        for number, figure in curve.points:
            parts.append(plane.whisker(number, figure, curve.tone))
            told = f"{curve.name}: {figure.show(measure)} with {number:,} {x_label}"
            parts.append(plane.circle(number, figure.value, f"dot tone{curve.tone}", 4, told))
    return "".join([*parts, "</svg>"])


def _decades(low: float, high: float) -> Iterator[float]:
    """Round numbers within a range on a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 3 else _TENTHS
    yield from (mark for power in powers for factor in factors if low <= (mark := factor * 10.0**power) <= high)


def _steps(dots: Sequence[Dot], plane: _Plane) -> str:
    """What is reached at most for a cost, as a staircase."""
    best = sorted((dot for dot in dots if dot.best), key=lambda dot: dot.cost)
    path = f"M{plane.across(best[0].cost):.1f},{plane.up(best[0].figure.value):.1f}"
    for dot in best[1:]:
        path += f"H{plane.across(dot.cost):.1f}V{plane.up(dot.figure.value):.1f}"
    return f"{path}H{_WIDTH - _RIGHT}"


def _labels(dots: Sequence[Dot], plane: _Plane) -> Iterator[str]:
    """Names beside their points, where there is room."""
    places = [(plane.across(dot.cost), plane.up(dot.figure.value)) for dot in dots]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for dot, (x, _) in zip(dots, places, strict=True):
        taken.append((x - 2, plane.up(dot.figure.high), x + 2, plane.up(dot.figure.low)))
    for dot, (x, y) in zip(dots, places, strict=True):
        name = dot.name if len(dot.name) <= _LONGEST else f"{dot.name[: _LONGEST - 1]}…"
        box = _room(x, y, _LETTER * len(name), taken)
        taken.append(box)
        place = f'x="{box[0]:.1f}" y="{(box[1] + box[3]) / 2 + 4:.1f}"'
        yield f'<text class="label small tone{dot.tone}" {place}>{escape(name)}</text>'


def _room(x: float, y: float, width: float, taken: Sequence[Box]) -> Box:
    """Where a label is put: the first place around its point that is free, else the one that covers least."""
    found: list[tuple[float, Box]] = []
    for rise in (0.0, -_LINE, _LINE, -1.6 * _LINE, 1.6 * _LINE, -2.5 * _LINE, 2.5 * _LINE):
        sides = (x + 9, x - 9 - width) if abs(rise) < _LINE else (x + 9, x - 9 - width, x - width / 2)
        for side in sides:
            left, middle = min(max(side, _LEFT), _WIDTH - 2 - width), y + rise
            box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
            outside = middle < _TOP - 6 or middle > _HEIGHT - _BOTTOM
            covered = sum(_shared(box, other) for other in taken) + (1e6 if outside else 0)
            if covered == 0:
                return box
            found.append((covered, box))
    return min(found)[1]


def _shared(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0)
