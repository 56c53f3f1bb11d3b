"""Nearest neighbours by cosine: exact while that is cheaper, a FAISS index beyond, and its measured recall.

For few queries against many rows. All rows against themselves, see self_join.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.arrays import Floats
from dinomill.arrays import Rows as Rows
from dinomill.config import Config
from dinomill.vectors.products import Vectors, blocks, brute_force, in_threads

_PAIRS_AT_ONCE = 1_024


class SearchConfig(Config):
    """How neighbours are found."""

    exact_up_to: int = Field(
        default=50_000, ge=0, description="rows that are all compared with all; more are looked for in cells"
    )
    cell_rows: int = Field(default=256, ge=16, description="rows a cell when all rows are compared with themselves")
    recall: float = Field(
        default=0.998,
        gt=0,
        le=1,
        description="… and so many of them are looked at that this share of a sample is found",
    )
    probes: int = Field(default=32, ge=1, description="cells of a FAISS index that are looked at for a query")
    compress_above: int = Field(
        default=20_000_000, ge=0, description="rows above which FAISS holds them as product-quantised codes"
    )
    check_queries: int = Field(
        default=2_000, ge=0, description="rows compared with all others, to set and to measure recall; 0: none"
    )
    seed: int = Field(default=0, ge=0, description="of the cells' k-means")


class SearchReport(Config):
    """How a search was done, and how well."""

    kind: str = Field(description="exact, or what was looked at")
    rows: int = Field(description="rows searched")
    recall: float | None = Field(description="share of the exact neighbours that was found; none: not measured")
    checked: int = Field(default=0, description="neighbours that the recall was measured on")
    compared: int = Field(
        default=0, exclude=True, description="rows compared with all; the others' neighbours were known (in no handle)"
    )


class Neighbours(NamedTuple):
    """For each query the k most similar rows, best first."""

    similarity: Floats  # [queries, k]; -1 where there are fewer
    row: Rows  # [queries, k]; -1 where there are fewer


class InMemory:
    """Vectors that fit in memory: float32 [N, D], rows of length one."""

    def __init__(self, rows: Floats) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dimension(self) -> int:
        """Numbers a row."""
        return int(self.rows.shape[1])

    def take(self, rows: Rows) -> Floats:
        """The rows asked for, float32 [n, D]."""
        return np.asarray(self.rows[rows], dtype=np.float32)


class Index:
    """An index over some rows of ``vectors``; ``kind`` says how it searches, ``report`` how well it does.

    Args:
        vectors: All rows.
        rows: The rows to index.
        config: When to search exactly, and how otherwise.
        queries: How many will be asked, if that is known: for few, comparing with all costs less than an index.
    """

    def __init__(self, vectors: Vectors, rows: Rows, config: SearchConfig, queries: int | None = None) -> None:
        self.vectors, self.rows, self.config = vectors, rows, config
        self._index: Any = None
        cells = 1 << int(np.log2(4 * np.sqrt(max(1, len(rows)))))
        # An index costs about one comparison with every centre a row, before the first question.
        if len(rows) <= config.exact_up_to or (queries is not None and queries <= cells):
            self.kind = "exact"
            return
        self._compressed = len(rows) > config.compress_above
        code = f"PQ{_code_bytes(vectors.dimension)}" if self._compressed else "SQfp16"
        self.kind = f"IVF{cells},{code}, {config.probes} probes"
        self._index = self._build(cells, code)

    def _build(self, cells: int, code: str) -> Any:
        import faiss

        index: Any = faiss.index_factory(self.vectors.dimension, f"IVF{cells},{code}", faiss.METRIC_INNER_PRODUCT)
        generator = np.random.default_rng(self.config.seed)
        chosen = generator.choice(len(self.rows), min(len(self.rows), 48 * cells), replace=False)
        index.train(self.vectors.take(self.rows[np.sort(chosen)]))
        index.nprobe = self.config.probes
        for block in blocks(self.rows):
            index.add(self.vectors.take(block))
        return index

    def search(self, queries: Floats, k: int) -> Neighbours:
        """The k most similar indexed rows of each query [n, D], as rows of ``vectors``."""
        k = min(k, len(self.rows))
        if self._index is None:
            found = brute_force(queries, self.vectors, self.rows, k)
            return Neighbours(found.similarity.reshape(-1, k), found.row.reshape(-1, k))
        # Codes order roughly: more are fetched, and put in order by their true similarity.
        wanted = min(4 * k, len(self.rows)) if self._compressed else k
        similarity, place = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), wanted)
        row = np.where(place >= 0, self.rows[place], -1)
        similarity = np.where(place >= 0, similarity, np.float32(-1))
        return (
            self._ordered(queries, Neighbours(similarity, row), k) if self._compressed else Neighbours(similarity, row)
        )

    def _ordered(self, queries: Floats, found: Neighbours, k: int) -> Neighbours:
        """The k best of what was found, by true similarity."""
        similarity = np.empty_like(found.similarity)
        for number, (query, row) in enumerate(zip(queries, found.row, strict=True)):
            similarity[number] = np.where(row >= 0, self.vectors.take(np.maximum(row, 0)) @ query, -1)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        return Neighbours(np.take_along_axis(similarity, order, 1), np.take_along_axis(found.row, order, 1))

    def report(self, k: int) -> SearchReport:
        """How well it searches: the share of the exact k nearest that it finds, for a seeded sample of its own rows."""
        if self._index is None:
            return SearchReport(kind=self.kind, rows=len(self.rows), recall=1.0)
        if not self.config.check_queries:
            return SearchReport(kind=self.kind, rows=len(self.rows), recall=None)
        generator = np.random.default_rng(self.config.seed + 1)
        count = min(self.config.check_queries, len(self.rows))
        sample = self.vectors.take(np.sort(generator.choice(self.rows, count, replace=False)))
        found = self.search(sample, k).row
        truth = brute_force(sample, self.vectors, self.rows, k).row.reshape(len(sample), -1)
        hits = sum(len(np.intersect1d(ours, exact)) for ours, exact in zip(found, truth, strict=True))
        return SearchReport(kind=self.kind, rows=len(self.rows), recall=hits / truth.size, checked=truth.size)


def exact_similarity(vectors: Vectors, left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    """The similarity of pairs of rows, the same on every machine and for any number of threads, to six digits."""

    def of_some(some: slice) -> npt.NDArray[np.float64]:
        a, b = vectors.take(left[some]).astype(np.float64), vectors.take(right[some]).astype(np.float64)
        return np.asarray(np.round((a * b).sum(axis=1), 6))

    # A row is read once for every pair that it is in: few at a time, or they would fill more memory than all rows do.
    pieces = (slice(start, start + _PAIRS_AT_ONCE) for start in range(0, len(left), _PAIRS_AT_ONCE))
    return np.concatenate([*in_threads(of_some, pieces), np.empty(0)])


def _code_bytes(dimension: int) -> int:
    """Bytes of a product-quantised row: one for four numbers, or as near to that as divides the dimension."""
    return next(count for count in range(max(1, dimension // 4), 0, -1) if dimension % count == 0)
