"""What the page shows of the features themselves: nearest neighbours, and patch features as colours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinomill.errors import DinomillError
from dinomill.handles import DatasetHandle, EvaluationHandle
from dinomill.images.decode import decode_image
from dinomill.reporting.config import ReportingConfig
from dinomill.reporting.curation import spread
from dinomill.reporting.pictures import Picture, data_uri
from dinomill.vectors.colours import colour_patches


@dataclass(frozen=True)
class NeighbourRow:
    """A query and its nearest neighbours, nearest first."""

    query: Picture
    neighbours: tuple[Picture, ...]


@dataclass(frozen=True)
class NeighbourBlock:
    """The neighbours by one model's features."""

    model: str
    rows: tuple[NeighbourRow, ...]

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


def view_neighbours(
    evaluation: EvaluationHandle, labelled: Path, models: list[str], curated: DatasetHandle, config: ReportingConfig
) -> tuple[NeighbourBlock, ...]:
    """Read the neighbours that evaluation found for some queries; empty when it kept none."""
    path = evaluation.folder / "neighbours.parquet"
    if not path.exists() or not config.queries:
        return ()
    table = pq.read_table(path).filter(pc.less_equal(pq.read_table(path)["rank"], config.neighbours))
    chosen = {row["query"] for row in spread(table.group_by("query").aggregate([]).sort_by("query"), config.queries)}
    seen: dict[str, Picture] = {}

    def picture(name: str, note: str, good: bool | None = None) -> Picture:
        if name not in seen:
            seen[name] = _picture(labelled / name, name, curated, config.thumbnail)
        return Picture(seen[name].uri, seen[name].name, name, note, good)

    blocks = []
    for model in models:
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in table.filter(pc.equal(table["model"], model)).sort_by("rank").to_pylist():
            if row["query"] in chosen:
                rows.setdefault(row["query"], []).append(row)
        if rows:
            blocks.append(
                NeighbourBlock(
                    model.replace("-", " ", 1),
                    tuple(
                        NeighbourRow(
                            picture(query, found[0]["query_label"]),
                            tuple(
                                picture(one["neighbour"], f"{one['similarity']:.2f}", one["same_class"])
                                for one in found
                            ),
                        )
                        for query, found in rows.items()
                    ),
                )
            )
    return tuple(blocks)


def view_patches(
    evaluation: EvaluationHandle, labelled: Path, models: list[str], curated: DatasetHandle, config: ReportingConfig
) -> tuple[PatchBlock, ...]:
    """Colour the patch tokens that evaluation kept; empty when it kept none."""
    names_path = evaluation.folder / "patches" / "images.json"
    if not names_path.exists() or not config.pca_images:
        return ()
    names: list[str] = json.loads(names_path.read_text(encoding="utf-8"))
    rows = np.unique(np.linspace(0, len(names) - 1, min(config.pca_images, len(names))).round().astype(int))
    blocks = []
    for model in models:
        path = names_path.with_name(f"{model}.npy")
        if not path.exists():
            continue
        coloured, explained = colour_patches(np.load(path, allow_pickle=False))
        side = coloured.shape[1]
        pairs = []
        for row in rows:
            image = _picture(labelled / names[row], names[row], curated, config.thumbnail)
            pairs.append((image, data_uri(coloured[row], side)))
        blocks.append(PatchBlock(model.replace("-", " ", 1), tuple(pairs), explained))
    return tuple(blocks)


def _picture(path: Path, name: str, curated: DatasetHandle, side: int) -> Picture:
    channels, value_range = curated.channels, curated.value_range
    try:
        pixels = decode_image(path.read_bytes(), channels=channels, min_side=side, value_range=value_range)
        return Picture(data_uri(pixels, side), path.name, name)
    except (OSError, DinomillError):
        return Picture("", path.name, name)
