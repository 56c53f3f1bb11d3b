"""What the page says about training: the curves of the teacher and its students."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.handles import ModelHandle
from dinomill.reporting.charts import Series, line_chart

_X = "images"
# Chart by chart: its title, and which columns of the history it shows. Terms are told by their names' first word.
_TERMS = ("dino", "ibot", "koleo", "gram", "cls", "patch")


@dataclass(frozen=True)
class Chart:
    """A drawn chart with its legend of names and tones."""

    title: str
    svg: str
    legend: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class TrainingView:
    """A model's training."""

    name: str
    kind: str  # teacher or student
    parameters: int
    images_seen: int
    steps: int
    embed_dim: int
    charts: tuple[Chart, ...]


def view_training(model: ModelHandle, kind: str) -> TrainingView:
    """Draw the loss, its terms, and what was measured on the way."""
    charts = draw_history(pq.read_table(model.history)) if model.history.exists() else ()
    return TrainingView(model.name, kind, model.parameters, model.images_seen, model.steps, model.embed_dim, charts)


def draw_history(table: pa.Table) -> tuple[Chart, ...]:
    """The charts of a history; columns that it lacks are left out."""
    columns = {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}
    if _X not in columns:
        return ()
    chosen = {
        "Loss": ["loss"],
        "Terms of the loss": [name for name in columns if name.split("_")[0] in _TERMS],
    }
    # Without labels, the spread of the embeddings is the only measure of how training goes.
    chosen |= {"kNN accuracy": ["knn"]} if "knn" in columns else {"Effective rank": ["effective_rank"]}
    charts = (_draw(title, names, columns) for title, names in chosen.items())
    return tuple(chart for chart in charts if chart.svg)


def _draw(title: str, names: list[str], columns: Mapping[str, npt.NDArray[np.float64]]) -> Chart:
    series = [
        Series(name.replace("_", " "), columns[_X], columns[name], number % 5 + 1)
        for number, name in enumerate(name for name in names if name in columns)
    ]
    return Chart(
        title,
        line_chart(series, x_label="images seen", y_label=title, percent="accuracy" in title),
        tuple((one.name, one.tone) for one in series) if len(series) > 1 else (),
    )
