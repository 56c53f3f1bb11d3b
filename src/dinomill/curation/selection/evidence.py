"""What the page shows of each set of seeds: how pool and seeds score, and the images on both sides of the border.

<folder>/scores.parquet        a row a set and bin of scores: images left out and asked for, seeds
<folder>/borderline.parquet    a row a set and image: the last that it asks for and the first that it does not
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinomill.arrays import Figures, Rows
from dinomill.curation.handles import EmbeddingsHandle, Judgement
from dinomill.curation.selection.judge import judge
from dinomill.curation.selection.remedies import Circumstances, remedies
from dinomill.curation.selection.retrieve import RetrievalConfig, Retrieved
from dinomill.storage.atomic import write_parquet

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


def write_evidence(folder: Path, rows: Rows, found: Mapping[str, Retrieved]) -> None:
    """Write both tables.

    Args:
        folder: Where to.
        rows: Of the scan: the images that the sets decided on.
        found: What each set asked for.
    """
    bins = [row for name, one in found.items() for row in histogram(name, one.score, one.own, one.wanted)]
    images = [row for name, one in found.items() for row in borderline(name, rows, one.score, one.wanted)]
    write_parquet(folder / SCORES, pa.Table.from_pylist(bins, schema=SCORES_SCHEMA))
    write_parquet(folder / BORDERLINE, pa.Table.from_pylist(images, schema=BORDERLINE_SCHEMA))


def judge_sets(
    found: Mapping[str, Retrieved],
    seeds: Mapping[str, int],
    config: RetrievalConfig,
    embeddings: EmbeddingsHandle,
    short_side: float,
) -> dict[str, Judgement]:
    """The verdict on each set; each is said as well.

    Args:
        found: What each set asked for.
        seeds: Readable seeds of each.
        config: How they asked.
        embeddings: What the features are.
        short_side: Of the pool's images, median, pixels.
    """
    judged = {}
    for name, one in found.items():
        settings = config.for_set(name)
        now = Circumstances(
            squeezed=embeddings.image_size > 0,
            image_size=embeddings.image_size,
            whitened=embeddings.whitened,
            short_side=short_side,
            mode=settings.mode,
            coverage=settings.coverage,
            key=f"curation.retrieval.{f'sets.{name}' if name in config.sets else 'default'}",
        )
        judged[name] = verdict = judge(
            one.score, one.own, one.wanted, name=name, seeds=seeds[name], remedies=remedies(now)
        )
        print(f"curation: seeds: {verdict}", flush=True)
    return judged
