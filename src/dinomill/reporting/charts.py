"""Small charts as inline SVG: they scale, print, follow the page's dark mode, and need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from dinomill.arrays import Figures

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 40
_PLOT_WIDTH = 640
_MOST_POINTS = 400
_FEW_POINTS = 25


@dataclass(frozen=True)
class Series:
    """A line: ``x`` and ``y`` of one length; ``tone`` is a colour of the style sheet: 1 to 5."""

    name: str
    x: Figures
    y: Figures
    tone: int = 1


@dataclass(frozen=True)
class Interval:
    """A mark on a scale with its uncertainty."""

    value: float
    low: float
    high: float
    tone: int = 1


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    percent: bool = False,
    x_range: tuple[float, float] | None = None,
) -> str:
    """Lines over a common x axis; noisy lines get a smoothed one over them.

    Args:
        series: The lines.
        x_label: Stands under the x axis.
        y_label: For readers that cannot see the chart.
        percent: Whether y is a fraction, to be shown in per cent.
        x_range: What the x axis shows at least, so that charts side by side have one axis; None: what the lines need.

    Returns:
        An ``<svg>`` element, or an empty string when there is nothing finite to draw.
    """
    drawn = [_finite(one) for one in series]
    drawn = [one for one in drawn if len(one.x) > 1]
    if not drawn:
        return ""
    ends = [*(x_range or ()), *(end for one in drawn for end in (one.x.min(), one.x.max()))]
    x_low, x_high = min(ends), max(ends)
    y_ticks = nice_ticks(min(one.y.min() for one in drawn), max(one.y.max() for one in drawn))
    x_ticks = [tick for tick in nice_ticks(x_low, x_high, 4) if x_low <= tick <= x_high]

    def place(x: Figures, y: Figures) -> str:
        left = _LEFT + (x - x_low) / max(x_high - x_low, 1e-12) * (_WIDTH - _LEFT - _RIGHT)
        top = _TOP + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(left, top, strict=True))

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    parts += _grid(x_ticks, y_ticks, x_low, x_high, percent)
    for one in drawn:
        thin = _thin(one)
        smooth = _smooth(one.y)
        noisy = np.abs(one.y - smooth).mean() > 0.01 * (y_ticks[-1] - y_ticks[0])
        if len(one.x) <= _FEW_POINTS:  # looks, not a curve: where one was is seen
            parts += _dots(place(one.x, one.y), one.tone)
        if noisy:
            parts.append(f'<polyline class="line raw tone{one.tone}" points="{place(thin.x, thin.y)}"/>')
        line = _thin(Series(one.name, one.x, smooth)) if noisy else thin
        parts.append(f'<polyline class="line tone{one.tone}" points="{place(line.x, line.y)}"/>')
    parts.append(
        f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>'
    )
    return "".join([*parts, "</svg>"])


def _dots(points: str, tone: int) -> list[str]:
    places = (point.split(",") for point in points.split())
    return [f'<circle class="dot tone{tone}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in places]


_LETTER, _LONGEST = 7.4, 40  # width of a letter of a row's name, and so many of them at most


def dot_plot(rows: Sequence[tuple[str, Sequence[Interval]]]) -> str:
    """A row a name, its marks with intervals on a common scale of fractions, shown in per cent."""
    marks = [mark for _, row in rows for mark in row]
    if not marks:
        return ""
    ticks = nice_ticks(min(mark.low for mark in marks), max(mark.high for mark in marks))
    most = max(len(row) for _, row in rows)
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name, _ in rows]
    step, left = max(30, 8 * most + 14), max(150, 14 + round(_LETTER * max(map(len, names))))
    height = step * len(rows) + 34

    def at(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_PLOT_WIDTH - left - 24)

    parts = [f'<svg class="chart" viewBox="0 0 {_PLOT_WIDTH} {height}" role="img" aria-label="accuracy by model">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="6" y2="{height - 26}"/>')
        parts.append(
            f'<text class="axis" x="{at(tick):.1f}" y="{height - 8}" text-anchor="middle">{100 * tick:.4g}%</text>'
        )
    for number, (name, (_, row)) in enumerate(zip(names, rows, strict=True)):
        y = 7 + step // 2 + step * number
        parts.append(f'<text class="label" x="{left - 14}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for index, mark in enumerate(row):
            offset = 8 * index - 4 * (most - 1)
            low, high, value = at(mark.low), at(mark.high), at(mark.value)
            ends = f'x1="{low:.1f}" x2="{high:.1f}" y1="{y + offset}" y2="{y + offset}"'
            parts.append(f'<line class="whisker tone{mark.tone}" {ends}/>')
            parts.append(f'<circle class="dot tone{mark.tone}" cx="{value:.1f}" cy="{y + offset}" r="4.5"/>')
    return "".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that enclose a range, about ``count`` of them."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float], x_low: float, x_high: float, percent: bool) -> list[str]:
    parts = []
    for tick in y_ticks:
        y = _TOP + (y_ticks[-1] - tick) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)
        label = f"{100 * tick:.4g}%" if percent else f"{tick:.4g}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        x = _LEFT + (tick - x_low) / max(x_high - x_low, 1e-12) * (_WIDTH - _LEFT - _RIGHT)
        # A label at the right end would reach beyond the picture.
        anchor = "end" if x > _WIDTH - _RIGHT - 12 else "middle"
        parts.append(f'<text class="axis" x="{x:.1f}" y="{_HEIGHT - 22}" text-anchor="{anchor}">{tick:,.6g}</text>')
    return parts


def _finite(series: Series) -> Series:
    good = np.isfinite(series.x) & np.isfinite(series.y)
    return Series(series.name, series.x[good], series.y[good], series.tone)


def _thin(series: Series) -> Series:
    """At most a few hundred points: more cannot be seen and only make the page heavy."""
    if len(series.x) <= _MOST_POINTS:
        return series
    rows = np.unique(np.linspace(0, len(series.x) - 1, _MOST_POINTS).round().astype(int))
    return Series(series.name, series.x[rows], series.y[rows], series.tone)


def _smooth(y: Figures) -> Figures:
    """A centred moving mean over a twentieth of the line; a line of few points is as it is."""
    width = len(y) // 40 * 2 + 1
    padded = np.pad(y, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")
