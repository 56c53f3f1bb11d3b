"""The pictures of an evaluation, as SVG files that are the same bytes for the same figures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.scores import Difference, Figure, Measure

if TYPE_CHECKING:
    from dinomill.evaluation.results import Results

# Colour-blind safe (Okabe & Ito 2008).
COLOURS = {"pixels": "#999999", "random": "#E69F00", "reference": "#56B4E9", "start": "#CC79A7", "champion": "#D55E00"}
COLOURS |= {"teacher": "#0072B2", "model": "#0072B2", "student": "#009E73"}


def write_plots(folder: Path, results: Results) -> None:
    """Write ``scores.svg``, ``differences.svg``, both of each measure that is no fraction, and what protocols draw.

    Measures of which no pair was compared have no plot of differences.
    """
    import matplotlib as mpl

    # Text stays text; without the salt and the date left out, every file would differ from the last.
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dinomill",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    folder.mkdir()
    with mpl.rc_context(settings):
        for name, measures in _together(results.measures).items():
            ending = f"_{name}" if name else ""
            save(_scores(results, measures), folder / f"scores{ending}.svg")
            judged = [one for one in measures if any(one.name in gains for gains in results.gains.values())]
            if judged:
                save(_differences(results, judged), folder / f"differences{ending}.svg")
        for protocol in results.protocols:
            protocol.draw(folder, results)


def _together(measures: Sequence[Measure]) -> dict[str, list[Measure]]:
    """Measures by the plot that they share: fractions have a common axis, every other one has its own."""
    found: dict[str, list[Measure]] = {}
    for measure in measures:
        found.setdefault("" if measure.percent else measure.name, []).append(measure)
    return found


def figure_of(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes."""
    # Not pyplot: it would choose a window system and keep every figure alive.
    from matplotlib.figure import Figure as Drawing

    figure = Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Any, path: Path) -> Path:
    """Write a figure without the time of its making."""
    with warnings.catch_warnings():
        # Names of classes in writings that the font lacks: boxes stand for them, the table has them right.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure.savefig(path, metadata={"Date": None})
    return path


def _places(measures: Sequence[Measure], room: float) -> list[tuple[Measure, float, float]]:
    """Each measure with its offset within a row and its strength of colour: the first is the darkest."""
    count = len(measures)
    step = room / count
    return [
        (measure, (index - (count - 1) / 2) * step, 1.0 if count == 1 else 1.0 - 0.5 * index / (count - 1))
        for index, measure in enumerate(measures)
    ]


def _reach(figure: Figure | Difference, scale: float) -> list[list[float]]:
    return [[scale * (figure.value - figure.low)], [scale * (figure.high - figure.value)]]


def _scores(results: Results, measures: Sequence[Measure]) -> Any:
    """Bars with confidence intervals; the first measure full, the last pale."""
    figure, axes = figure_of(6.5, 0.9 + (0.15 + 0.2 * max(len(measures), 2)) * len(results.rows))
    furthest = max(row.figures[measure.name].high for row in results.rows for measure in measures)
    height = 0.72 / max(len(measures), 2)
    for place, row in enumerate(results.rows):
        colour = COLOURS[row.network.kind]
        for measure, offset, alpha in _places(measures, 0.76):
            found = row.figures[measure.name]
            axes.barh(
                place + offset,
                found.value,
                height,
                color=colour,
                alpha=alpha,
                xerr=_reach(found, 1),
                ecolor="#333333",
                capsize=2,
            )
            axes.text(found.high + 0.008 * furthest, place + offset, measure.bare(found.value), va="center")
    axes.set_yticks(range(len(results.rows)), [row.network.name for row in results.rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.06 if measures[0].percent else 1.12 * furthest)
    said = ", ".join(measure.title for measure in measures)
    which = f" (from dark to pale: {said})" if len(measures) > 1 else ""
    axes.set_xlabel(f"on the queries{which}" if measures[0].percent else f"{said} {measures[0].unit}".rstrip())
    return figure


def _differences(results: Results, measures: Sequence[Measure]) -> Any:
    """Paired differences with their intervals: right of the line is more."""
    names = list(results.gains)
    figure, axes = figure_of(6.5, 0.9 + 0.45 * max(len(names), 1))
    axes.axvline(0, color="#333333", lw=0.8)
    for place, name in enumerate(names):
        for measure, offset, alpha in _places(measures, 0.24 * len(measures)):
            gain, scale = results.gains[name].get(measure.name), measure.scale
            if gain is None:
                continue
            reach = _reach(gain, scale)
            axes.errorbar(
                scale * gain.value, place + offset, xerr=reach, fmt="o", ms=4, capsize=2, color="#0072B2", alpha=alpha
            )
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.invert_yaxis()
    said = ", ".join(measure.title for measure in measures)
    which = f" (from dark to pale: {said})" if len(measures) > 1 else f" ({said})"
    better = "" if measures[0].higher_is_better else "; less is better"
    axes.set_xlabel(f"{measures[0].step} on the same queries{which}{better}".strip())
    return figure
