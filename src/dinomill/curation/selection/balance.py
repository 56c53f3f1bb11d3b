"""Balance without labels: hierarchical k-means, then sampling from the top down with a cap (Vo et al. 2024).

<folder>/clusters.parquet    a row a finest cluster: its parents, how many images it held and how many stay

K-means puts most of its centres where most images are; k-means of the centres puts them more evenly, and so on up. In
between, the centres are refined on the same number of images from each cluster (resampling), which evens them out
further. Then the target is shared out from the top: every cluster gets the same cap x, chosen so that Σ min(x, size) is
the target, and shares it among its children in the same way.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from dinomill.arrays import Floats, Rows
from dinomill.config import Config
from dinomill.vectors.index import InMemory
from dinomill.vectors.kmeans import assign, kmeans
from dinomill.vectors.products import Vectors, nearest_of_all

CLUSTERS_SCHEMA = pa.schema(
    [
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("parents", pa.list_(pa.int32()), nullable=False),  # of each coarser level, finest first
        pa.field("before", pa.int64(), nullable=False),  # images it held
        pa.field("after", pa.int64(), nullable=False),  # images that stay
    ]
)


class BalanceConfig(Config):
    """How images are clustered, and how many stay."""

    levels: tuple[int, ...] = Field(
        default=(64, 16), description="clusters of each level, finest first (paper: 10M, 500k, 50k, 10k); empty: none"
    )
    target: int | None = Field(default=None, ge=1, description="images to keep; none: clusters are written down only")
    resampling: int = Field(default=2, ge=0, description="times that the centres of a level are refined")
    resampled: int = Field(default=16, ge=1, description="images of each cluster that its centres are refined on")
    seed: int = Field(default=0, ge=0, description="of the k-means, and of what is drawn from its clusters")

    @model_validator(mode="after")
    def _finest_first(self) -> Self:
        if any(fine <= coarse for fine, coarse in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"levels must fall from the finest to the coarsest; found {self.levels}")
        if self.target is not None and not self.levels:
            raise ValueError("a target needs levels to share it out among")
        return self


def cluster(vectors: Vectors, rows: Rows, config: BalanceConfig) -> list[Rows]:
    """The cluster of each row at each level, finest first: int64 [levels][rows]."""
    points: Vectors = vectors
    here, of_row = rows, np.arange(len(rows))
    found: list[Rows] = []
    for level, wanted in enumerate(config.levels):
        count = min(wanted, max(1, len(here) // 2))
        centres = _level(points, here, count, config, config.seed + level)
        of_point = assign(points, here, centres)
        of_row = of_point[of_row]
        found.append(of_row)
        points, here = InMemory(centres), np.arange(len(centres))
    return found


def share_out(clusters: list[Rows], target: int, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows stay: about ``target``, shared out from the coarsest level down; bool [rows]."""
    count = len(clusters[0])
    chosen = np.zeros(count, dtype=np.bool_)
    order = np.random.default_rng(seed).permutation(count)

    def descend(rows: Rows, level: int, wanted: int) -> None:
        if wanted >= len(rows):
            chosen[rows] = True
            return
        if level < 0:
            chosen[rows[np.argsort(order[rows], kind="stable")[:wanted]]] = True
            return
        here = clusters[level][rows]
        names, starts = np.unique(here[by := np.argsort(here, kind="stable")], return_index=True)
        parts = np.split(rows[by], starts[1:])
        assert len(parts) == len(names)
        for part, share in zip(parts, capped_shares(np.array([len(p) for p in parts]), wanted), strict=True):
            descend(part, level - 1, int(share))

    descend(np.arange(count), len(clusters) - 1, min(target, count))
    return chosen


def capped_shares(sizes: Rows, target: int) -> Rows:
    """``min(x, size)`` of each cluster, with x such that they add up to the target; int64 [clusters].

    What a whole x leaves over goes one each to the first clusters that have more.
    """
    if target >= int(sizes.sum()):
        return sizes.astype(np.int64)
    low, high = 0, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(sizes, middle).sum()) <= target else (low, middle - 1)
    shares = np.minimum(sizes, low).astype(np.int64)
    more = np.flatnonzero(sizes > low)[: target - int(shares.sum())]
    shares[more] += 1
    return shares


def cluster_table(clusters: list[Rows], chosen: npt.NDArray[np.bool_]) -> pa.Table:
    """Sizes before and after of the finest clusters, with their parents."""
    finest = clusters[0]
    names, first, before = np.unique(finest, return_index=True, return_counts=True)
    after = np.bincount(finest[chosen], minlength=int(names.max(initial=-1)) + 1)[names]
    parents = [[int(level[row]) for level in clusters[1:]] for row in first]
    return pa.table([names, parents, before, after], schema=CLUSTERS_SCHEMA)


def _level(points: Vectors, rows: Rows, count: int, config: BalanceConfig, seed: int) -> Floats:
    """Centres of one level, refined on even samples of their clusters."""
    centres = kmeans(points, rows, count, seed=seed)
    for step in range(config.resampling):
        even = _closest(points, rows, centres, config.resampled)
        if len(even) <= count:
            break
        centres = kmeans(points, even, count, seed=seed + 1000 * (step + 1))
    return centres


def _closest(points: Vectors, rows: Rows, centres: Floats, each: int) -> Rows:
    """The rows closest to the centre of each cluster, at most ``each``, in order."""
    home, exact = nearest_of_all(points, rows, centres)
    similarity = np.round(exact, 5)
    order = np.lexsort((np.arange(len(rows)), -similarity, home))
    starts = np.searchsorted(home[order], np.arange(len(centres)))
    place_in_cluster = np.arange(len(rows)) - starts[home[order]]
    return np.sort(rows[order[place_in_cluster < each]])
