"""The pictures of an evaluation, as SVG files that are the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dinomill.evaluation.results import Results

# Colour-blind safe (Okabe & Ito 2008).
_COLOURS = {"pixels": "#999999", "random": "#E69F00", "reference": "#56B4E9", "start": "#CC79A7"}
_COLOURS |= {"teacher": "#0072B2", "student": "#009E73"}
_CELLS_WITH_FIGURES = 20


def write_plots(folder: Path, results: Results) -> None:
    """Write ``scores.svg``, ``differences.svg``, ``knn_by_k.svg`` and ``confusion.svg``."""
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
        _save(_scores(results), folder / "scores.svg")
        _save(_differences(results), folder / "differences.svg")
        _save(_by_k(results), folder / "knn_by_k.svg")
        _save(_confusion(results), folder / "confusion.svg")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Not pyplot: it would choose a window system and keep every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def _scores(results: Results) -> Any:
    """Bars with confidence intervals: kNN full, linear pale."""
    figure, axes = _figure(6.5, 0.9 + 0.55 * len(results.rows))
    for place, row in enumerate(results.rows):
        colour = _COLOURS[row.network.kind]
        for offset, interval, alpha in ((-0.19, row.measured.knn, 1.0), (0.19, row.measured.linear, 0.5)):
            reach = [[interval.value - interval.low], [interval.high - interval.value]]
            axes.barh(
                place + offset, interval.value, 0.36, color=colour, alpha=alpha, xerr=reach, ecolor="#333333", capsize=2
            )
            axes.text(interval.high + 0.008, place + offset, f"{100 * interval.value:.1f}", va="center")
    axes.set_yticks(range(len(results.rows)), [row.network.name for row in results.rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.06)
    axes.set_xlabel("accuracy on the queries (dark: weighted kNN, pale: linear probe)")
    return figure


def _differences(results: Results) -> Any:
    """Paired differences with their intervals: what lies right of the line is better."""
    names = list(results.gains)
    figure, axes = _figure(6.5, 0.9 + 0.45 * max(len(names), 1))
    axes.axvline(0, color="#333333", lw=0.8)
    for place, name in enumerate(names):
        for offset, probe, alpha in ((-0.12, "knn", 1.0), (0.12, "linear", 0.5)):
            interval = results.gains[name][probe]
            reach = [[100 * (interval.value - interval.low)], [100 * (interval.high - interval.value)]]
            axes.errorbar(
                100 * interval.value, place + offset, xerr=reach, fmt="o", ms=4, capsize=2, color="#0072B2", alpha=alpha
            )
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.invert_yaxis()
    axes.set_xlabel("points on the same queries (dark: weighted kNN, pale: linear probe)")
    return figure


def _by_k(results: Results) -> Any:
    """Accuracy against the number of neighbours; a ring marks the k chosen on the bank."""
    figure, axes = _figure(5, 3.2)
    styles = iter(("-", "--", ":", "-."))
    for row in results.rows:
        points = sorted(row.measured.knn_by_k.items())
        style = next(styles, "-") if row.network.kind == "student" else "-"
        colour = _COLOURS[row.network.kind]
        axes.plot(
            [k for k, _ in points],
            [value for _, value in points],
            style,
            marker="o",
            ms=3,
            color=colour,
            label=row.network.name,
        )
        axes.plot(row.measured.k, row.measured.knn_by_k[row.measured.k], "o", ms=8, mfc="none", color=colour)
    axes.set_xscale("log")
    axes.set_xticks(
        sorted(results.rows[0].measured.knn_by_k), labels=[str(k) for k in sorted(results.rows[0].measured.knn_by_k)]
    )
    axes.minorticks_off()
    axes.set_xlabel("neighbours k")
    axes.set_ylabel("kNN accuracy")
    axes.legend(frameon=False)
    return figure


def _confusion(results: Results) -> Any:
    """Rows: true class; columns: what the teacher's kNN says; shares of the row."""
    row = results.row("teacher")
    assert row is not None, "every evaluation has a teacher"
    names = results.queries.classes
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (results.queries.labels, row.measured.knn_predicted), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = 1.8 + 0.38 * min(len(names), 40)
    figure, axes = _figure(side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _CELLS_WITH_FIGURES:
        for i, j in zip(*np.nonzero(shares >= 0.005), strict=True):
            axes.text(
                j,
                i,
                f"{100 * shares[i, j]:.0f}",
                ha="center",
                va="center",
                color="white" if shares[i, j] > 0.5 else "black",
            )
    if len(names) <= 2 * _CELLS_WITH_FIGURES:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"kNN of {row.network.name}, % of the row")
    axes.set_ylabel("class")
    return figure
