"""Nearest neighbours by cosine: exact while that is quick, an inverted file beyond, and its measured recall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.config import Config

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Vectors(Protocol):
    """Rows of length one, read in blocks; never all in memory unless they are few."""

    def __len__(self) -> int: ...

    @property
    def dimension(self) -> int:
        """Numbers a row."""

    def take(self, rows: Rows) -> Floats:
        """The rows asked for, float32 [n, D]."""


class SearchConfig(Config):
    """How neighbours are found."""

    exact_up_to: int = Field(default=50_000, ge=0, description="rows; above it, an inverted file (IVF) is used")
    probes: int = Field(default=32, ge=1, description="cells of the inverted file that a query looks at")
    check_queries: int = Field(default=1_000, ge=0, description="queries whose recall is measured against exact search")
    seed: int = Field(default=0, ge=0)


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
    """An index over some rows of ``vectors``; ``kind`` says how it searches, ``recall`` how well it does.

    Args:
        vectors: All rows.
        rows: The rows to index.
        config: Exact or not.
    """

    def __init__(self, vectors: Vectors, rows: Rows, config: SearchConfig) -> None:
        import faiss

        self.vectors, self.rows, self.config = vectors, rows, config
        self.recall = 1.0
        if len(rows) <= config.exact_up_to:
            self.kind = "exact"
            self._index: Any = faiss.IndexFlatIP(vectors.dimension)
        else:
            cells = 1 << int(np.log2(4 * np.sqrt(len(rows))))
            self.kind = f"IVF{cells},SQfp16, {config.probes} probes"
            self._index = faiss.index_factory(vectors.dimension, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
            chosen = np.random.default_rng(config.seed).choice(len(rows), min(len(rows), 48 * cells), replace=False)
            self._index.train(vectors.take(rows[np.sort(chosen)]))
            self._index.nprobe = config.probes
        for block in blocks(rows):
            self._index.add(vectors.take(block))

    def search(self, queries: Floats, k: int) -> Neighbours:
        """The k most similar indexed rows of each query [n, D], as rows of ``vectors``."""
        similarity, place = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, len(self.rows)))
        row = np.where(place >= 0, self.rows[place], -1)
        return Neighbours(np.where(place >= 0, similarity, np.float32(-1)), row)

    def measure_recall(self, k: int) -> float:
        """The share of the exact k nearest neighbours that this index finds, on a seeded sample of its own rows."""
        import faiss

        if self.kind == "exact" or not self.config.check_queries:
            return 1.0
        generator = np.random.default_rng(self.config.seed + 1)
        sample = self.vectors.take(
            np.sort(generator.choice(self.rows, min(self.config.check_queries, len(self.rows)), replace=False))
        )
        found = self.search(sample, k).row
        best = faiss.ResultHeap(len(sample), k, keep_max=True)
        start = 0
        for block in blocks(self.rows):
            similarity, place = faiss.knn(
                sample, self.vectors.take(block), min(k, len(block)), faiss.METRIC_INNER_PRODUCT
            )
            best.add_result(similarity, place + start)
            start += len(block)
        best.finalize()
        truth = self.rows[best.I]
        hits = [len(np.intersect1d(ours, exact)) for ours, exact in zip(found, truth, strict=True)]
        self.recall = float(np.sum(hits) / truth.size)
        return self.recall


def blocks(rows: Rows, size: int = 65_536) -> Iterator[Rows]:
    """Rows in pieces that fit in memory."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def exact_similarity(vectors: Vectors, left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    """The similarity of pairs of rows, the same on every machine and for any number of threads, to six digits."""
    found = np.empty(len(left))
    for start in range(0, len(left), 65_536):
        piece = slice(start, start + 65_536)
        a, b = vectors.take(left[piece]).astype(np.float64), vectors.take(right[piece]).astype(np.float64)
        found[piece] = np.round((a * b).sum(axis=1), 6)
    return found
