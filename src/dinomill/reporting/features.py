"""What the page shows of the features themselves: nearest neighbours, patch features as colours, attention."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from dinomill.handles import DatasetHandle, EvaluationHandle
from dinomill.reporting.attention import AttentionMaps, view_attention
from dinomill.reporting.config import ReportingConfig
from dinomill.reporting.names import readable
from dinomill.reporting.pictures import LabelledPictures, Picture, data_uri
from dinomill.reporting.tables import OF_STAGE, read_result
from dinomill.vectors.colours import colour_patches

_EVENLY = "evenly"  # as evaluation.pictures says it, whose import would bring torch


@dataclass(frozen=True)
class NeighbourRow:
    """A query and its nearest neighbours, nearest first."""

    query: Picture  # its note is its class; good: whether the vote was for it
    neighbours: tuple[Picture, ...]
    vote: str | None  # the class that its neighbours voted for; None: no kNN was measured


@dataclass(frozen=True)
class NeighbourBlock:
    """The neighbours by one model's features."""

    model: str
    rows: tuple[NeighbourRow, ...]  # of queries drawn evenly
    failures: tuple[NeighbourRow, ...]  # of queries on which the vote was wrong, drawn evenly from all such
    wrong: int | None  # how many these are; None: unknown
    queries: int

    @property
    def hits(self) -> float:
        """Share of the neighbours shown that are of their query's class."""
        shown = [picture.good for row in self.rows for picture in row.neighbours]
        return sum(map(bool, shown)) / max(len(shown), 1)


@dataclass(frozen=True)
class PatchBlock:
    """Images beside the principal components of their patch features."""

    model: str
    pairs: tuple[tuple[Picture, str], ...]
    explained: float  # share of the variance in the three components shown
    attention: AttentionMaps | None


def view_neighbours(
    evaluation: EvaluationHandle, labelled: Path, models: list[str], curated: DatasetHandle, config: ReportingConfig
) -> tuple[NeighbourBlock, ...]:
    """Read the neighbours that evaluation found for some queries; empty when it kept none."""
    path = evaluation.folder / "neighbours.parquet"
    if not path.exists() or not config.queries:
        return ()
    table = read_result(path, OF_STAGE.format("evaluation"))
    table = table.filter(pc.less_equal(table["rank"], config.neighbours))
    show = LabelledPictures(labelled, curated, config.thumbnail)
    wrong = _wrong_votes(evaluation, models)
    blocks = []
    for model in models:
        rows = table.filter(pc.equal(table["model"], model)).sort_by("rank").to_pylist()
        # An evaluation of before failures were kept drew all evenly.
        even = [row for row in rows if row.get("drawn", _EVENLY) == _EVENLY]
        failed = [row for row in rows if row.get("drawn", _EVENLY) != _EVENLY]
        if rows:
            blocks.append(
                NeighbourBlock(
                    readable(model),
                    _rows(even, config.queries, show),
                    _rows(failed, config.failures, show),
                    wrong.get(model),
                    evaluation.query_images,
                )
            )
    return tuple(blocks)


def _rows(lines: list[dict[str, Any]], wanted: int, show: LabelledPictures) -> tuple[NeighbourRow, ...]:
    """Some of the queries, evenly, each with its neighbours."""
    by_query: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: str(line["query"])):
        by_query.setdefault(line["query"], []).append(line)
    names = list(by_query)
    found = []
    for name in [names[len(names) * number // wanted] for number in range(wanted)] if len(names) > wanted else names:
        first, vote = by_query[name][0], by_query[name][0].get("vote")
        found.append(
            NeighbourRow(
                show(name, first["query_label"], None if vote is None else vote == first["query_label"]),
                tuple(show(one["neighbour"], f"{one['similarity']:.2f}", one["same_class"]) for one in by_query[name]),
                vote,
            )
        )
    return tuple(found)


def _wrong_votes(evaluation: EvaluationHandle, models: list[str]) -> dict[str, int]:
    """Queries on which each model's neighbours voted for another class."""
    path = evaluation.folder / "images.parquet"
    if not path.is_file():
        return {}
    table = read_result(path, OF_STAGE.format("evaluation"))
    columns = {model: f"{model}_knn" for model in models if f"{model}_knn" in table.column_names}
    if "label" not in table.column_names:
        return {}
    return {
        model: pc.sum(pc.not_equal(table[column], table["label"])).as_py() or 0 for model, column in columns.items()
    }


def view_patches(
    evaluation: EvaluationHandle, labelled: Path, models: list[str], curated: DatasetHandle, config: ReportingConfig
) -> tuple[PatchBlock, ...]:
    """Colour the patch tokens that evaluation kept; empty when it kept none."""
    names_path = evaluation.folder / "patches" / "images.json"
    if not names_path.exists() or not config.pca_images:
        return ()
    names: list[str] = json.loads(names_path.read_text(encoding="utf-8"))
    rows = np.unique(np.linspace(0, len(names) - 1, min(config.pca_images, len(names))).round().astype(int))
    show = LabelledPictures(labelled, curated, config.thumbnail)
    blocks = []
    for model in models:
        path = names_path.with_name(f"{model}.npy")
        if not path.exists():
            continue
        coloured, explained = colour_patches(np.load(path, allow_pickle=False))
        pairs = tuple((show(names[row]), data_uri(coloured[row], coloured.shape[1])) for row in rows)
        attention = view_attention(evaluation, model, rows)
        blocks.append(PatchBlock(readable(model), pairs, explained, attention))
    return tuple(blocks)
