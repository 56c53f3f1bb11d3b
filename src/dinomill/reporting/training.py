"""What the page says about training: the curves of the teacher and its students, and how healthy they were."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from dinomill.arrays import Figures
from dinomill.handles import ModelHandle
from dinomill.reporting.charts import Series, line_chart
from dinomill.reporting.meanings import notes
from dinomill.reporting.tables import OF_STAGE, read_result

_X = "images"
# Chart by chart: its title, and which columns of the history it shows. Terms are told by their names' first word.
_TERMS = ("dino", "ibot", "koleo", "gram", "sigreg", "invariance", "class", "patches")
_NOT_TERMS = re.compile("_(rank|likeness|found|drift|used)$")
_HEALTH = {
    "Directions that features fill": ["effective_rank", "class_rank", "patch_rank"],
    "Prototypes that images are nearest to": ["prototypes_used"],
    "Found again in augmented copies": ["copies_found", "patches_found", "agreement"],
    "Likeness": ["similarity", "patch_likeness", "patch_class_likeness", "neighbour_distance", "patch_drift"],
}
_PERCENT = ("accuracy", "Found again")
_PICTURES = "look_*.jpg"
# What bad verdicts are drawn in.
_BAD = ("collapsing", "dense features decaying")


@dataclass(frozen=True)
class Chart:
    """A drawn chart with its legend of names and tones."""

    title: str
    svg: str
    legend: tuple[tuple[str, int], ...]
    notes: tuple[tuple[str, str], ...] = ()  # what is drawn, and what it means


@dataclass(frozen=True)
class Judgement:
    """What the monitor said at a look, in the words of that time."""

    step: int
    verdict: str
    reason: str

    @property
    def bad(self) -> bool:
        """Whether somebody should have looked."""
        return self.verdict in _BAD


@dataclass(frozen=True)
class LookPicture:
    """What the monitor saw at a look: rows of an image, its patches as colours, its nearest neighbours."""

    step: int
    uri: str


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
    health: tuple[Chart, ...]
    judgements: tuple[Judgement, ...]
    pictures: tuple[LookPicture, ...]
    labelled: bool  # whether looks measured kNN
    unreadable: int  # images that others took the places of

    @property
    def states(self) -> tuple[str, ...]:
        """The verdicts in their order, each as long as it lasted once."""
        return tuple(state for state, _ in groupby(one.verdict for one in self.judgements))


def view_training(model: ModelHandle, kind: str) -> TrainingView:
    """Draw the loss, its terms, and what was measured and said on the way."""
    command = OF_STAGE.format("pretraining" if kind == "teacher" else "distillation")
    table = read_result(model.history, command) if model.history.exists() else pa.table({})
    return TrainingView(
        model.name,
        kind,
        model.parameters,
        model.images_seen,
        model.steps,
        model.embed_dim,
        draw_history(table),
        draw_health(table),
        judgements(table),
        look_pictures(model.folder),
        "knn" in table.column_names,
        model.unreadable,
    )


def draw_history(table: pa.Table) -> tuple[Chart, ...]:
    """The charts of a history; columns that it lacks are left out."""
    columns = _numbers(table)
    terms = [name for name in columns if name.split("_")[0] in _TERMS and not _NOT_TERMS.search(name)]
    chosen = {"Loss": ["loss"], "Terms of the loss": terms}
    # Without labels, the spread of the embeddings is the only measure of how training goes.
    chosen |= {"kNN accuracy": ["knn"]} if "knn" in columns else {"Effective rank": ["effective_rank"]}
    return _drawn(chosen, columns)


def draw_health(table: pa.Table) -> tuple[Chart, ...]:
    """The charts of what the monitor measured without labels."""
    return _drawn(_HEALTH, _numbers(table))


def judgements(table: pa.Table) -> tuple[Judgement, ...]:
    """The monitor's verdicts; one that repeats the one before is left out, the last one never."""
    if "verdict" not in table.column_names:
        return ()
    rows = [row for row in table.select(["step", "verdict", "reason"]).to_pylist() if row["verdict"] is not None]
    said = [Judgement(row["step"], row["verdict"], row["reason"] or "") for row in rows]
    return tuple(
        one
        for number, one in enumerate(said)
        if number in (0, len(said) - 1) or one.verdict != said[number - 1].verdict
    )


def look_pictures(folder: Path) -> tuple[LookPicture, ...]:
    """The pictures that a training left beside its weights, in order of steps."""
    return tuple(
        LookPicture(
            int(path.stem.removeprefix("look_")),
            f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}",
        )
        for path in sorted(folder.glob(_PICTURES))
    )


def _numbers(table: pa.Table) -> dict[str, Figures]:
    """The columns that can be drawn; none without the common x axis."""
    if _X not in table.column_names:
        return {}
    numbers = [field.name for field in table.schema if not pa.types.is_string(field.type)]
    return {name: table[name].to_numpy().astype(np.float64) for name in numbers}


def _drawn(chosen: Mapping[str, list[str]], columns: Mapping[str, Figures]) -> tuple[Chart, ...]:
    if _X not in columns:
        return ()
    # Looks are rarer than rows of steps, and begin earlier: one axis for all, or they could not be compared.
    charts = (_draw(title, names, columns) for title, names in chosen.items())
    return tuple(chart for chart in charts if chart.svg)


def _draw(title: str, names: list[str], columns: Mapping[str, Figures]) -> Chart:
    shown = [name for name in names if name in columns]
    series = [
        Series(name.replace("_", " "), columns[_X], columns[name], number % 5 + 1) for number, name in enumerate(shown)
    ]
    return Chart(
        title,
        line_chart(
            series,
            x_label="images seen",
            y_label=title,
            percent=title.startswith(_PERCENT) or title.endswith(_PERCENT),
            x_range=(0.0, float(columns[_X].max(initial=0.0))),
        ),
        tuple((one.name, one.tone) for one in series) if len(series) > 1 else (),
        notes(shown),
    )
