"""Plots of sets whose images have classes: accuracy by k, and what is taken for what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinomill.evaluation.plots import COLOURS, figure_of, save
from dinomill.evaluation.sets.classes import ClassifiedSet

if TYPE_CHECKING:
    from dinomill.evaluation.results import Results, Row

_CELLS_WITH_FIGURES = 20


def draw_by_k(path: Path, results: Results) -> Path:
    """Accuracy against the number of neighbours; a ring marks the k chosen on the bank."""
    figure, axes = figure_of(5, 3.2)
    styles = iter(("-", "--", ":", "-."))
    ticks: list[int] = []
    for row in results.rows:
        by_k = _by_k(row)
        ticks = ticks or list(by_k)
        style = next(styles, "-") if row.network.kind == "student" else "-"
        colour = COLOURS[row.network.kind]
        axes.plot(list(by_k), list(by_k.values()), style, marker="o", ms=3, color=colour, label=row.network.name)
        k = int(row.chosen["k"])
        axes.plot(k, by_k[k], "o", ms=8, mfc="none", color=colour)
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_xlabel("neighbours k")
    axes.set_ylabel("kNN accuracy")
    axes.legend(frameon=False)
    return save(figure, path)


def _by_k(row: Row) -> dict[int, float]:
    prefix = "knn_k"
    found = {
        int(name[len(prefix) :]): value
        for name, value in row.measured["knn"].details.items()
        if name.startswith(prefix)
    }
    return dict(sorted(found.items()))


def draw_confusion(path: Path, results: Results, measure: str) -> Path:
    """Rows: true class; columns: what the teacher says, or the last network where there is none; shares of the row."""
    data = results.data
    assert isinstance(data, ClassifiedSet)
    row = results.row("teacher") or results.rows[-1]
    predicted = row.measured[measure].predicted
    assert predicted is not None
    names = data.classes
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (data.queries.labels, predicted), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = 1.8 + 0.38 * min(len(names), 40)
    figure, axes = figure_of(side, side)
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
    title = next(one.title for one in results.measures if one.name == measure)
    axes.set_xlabel(f"{title} of {row.network.name}, % of the row")
    axes.set_ylabel("class")
    return save(figure, path)
