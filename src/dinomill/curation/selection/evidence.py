"""What the page shows of each set of seeds: how pool and seeds score, and the images on both sides of the border.

<folder>/scores.parquet        a row a set and bin of scores: images left out and asked for, seeds
<folder>/borderline.parquet    a row a set and image: the last that it asks for and the first that it does not
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinomill.curation.selection.judge import Figures
from dinomill.storage.atomic import write_parquet
from dinomill.vectors.products import Rows

SCORES_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),  # bounds of the bin
        pa.field("high", pa.float64(), nullable=False),
        pa.field("left", pa.int64(), nullable=False),  # images that the set does not ask for
        pa.field("asked", pa.int64(), nullable=False),  # images that it asks for
        pa.field("seeds", pa.int64(), nullable=False),  # each scored as an image of the pool
    ]
)
BORDERLINE_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # of the scan
        pa.field("score", pa.float64(), nullable=False),
        pa.field("asked", pa.bool_(), nullable=False),
    ]
)
SCORES, BORDERLINE = "scores.parquet", "borderline.parquet"
_BINS = 48
_EACH = 11  # images on each side: a line of the page


def histogram(name: str, scores: Figures, own: Figures, asked: npt.NDArray[np.bool_]) -> list[dict[str, object]]:
    """Rows of SCORES_SCHEMA for a set; the lowest and the highest bin hold what lies beyond."""
    both = np.concatenate([scores, own])
    low, high = np.quantile(both, (0.002, 1.0))
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    place, place_own = (np.clip(np.searchsorted(edges, of, side="right") - 1, 0, _BINS - 1) for of in (scores, own))
    columns = {
        "left": np.bincount(place[~asked], minlength=_BINS),
        "asked": np.bincount(place[asked], minlength=_BINS),
        "seeds": np.bincount(place_own, minlength=_BINS),
    }
    return [
        {"set": name, "low": float(edges[bin_]), "high": float(edges[bin_ + 1])}
        | {key: value[bin_].item() for key, value in columns.items()}
        for bin_ in range(_BINS)
    ]


def borderline(name: str, rows: Rows, scores: Figures, asked: npt.NDArray[np.bool_]) -> list[dict[str, object]]:
    """Rows of BORDERLINE_SCHEMA for a set: the least of what it asks for, the best of what it does not."""
    inside, outside = np.flatnonzero(asked), np.flatnonzero(~asked)
    last = inside[np.argsort(scores[inside], kind="stable")[:_EACH]]
    first = outside[np.argsort(-scores[outside], kind="stable")[:_EACH]]
    return [
        {"set": name, "row": int(rows[place]), "score": float(scores[place]), "asked": bool(asked[place])}
        for place in (*last, *first)
    ]


def write_evidence(folder: Path, bins: list[dict[str, object]], images: list[dict[str, object]]) -> None:
    """Write both tables."""
    write_parquet(folder / SCORES, pa.Table.from_pylist(bins, schema=SCORES_SCHEMA))
    write_parquet(folder / BORDERLINE, pa.Table.from_pylist(images, schema=BORDERLINE_SCHEMA))
