"""K-means on rows of length one, the same for any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.curation.neighbours import InMemory, Rows, Vectors, blocks

_NUMBERS_IN_MEMORY = 250_000_000  # a gigabyte
_SPREAD_UP_TO = 2048  # cells; the cost grows with their square

Floats = npt.NDArray[np.float32]


def kmeans(
    vectors: Vectors, rows: Rows, cells: int, *, seed: int = 0, iterations: int = 15, rows_per_cell: int = 256
) -> Floats:
    """Centres [cells, D] of length one (spherical k-means: cosine is what neighbours are compared by).

    Args:
        vectors: All rows.
        rows: The rows to cluster.
        cells: Centres wanted; no more than there are rows.
        seed: Of the first centres and of the training sample.
        iterations: Passes over the training sample.
        rows_per_cell: The training sample is at most this many rows a centre: more changes little.
    """
    generator = np.random.default_rng(seed)
    if len(rows) > rows_per_cell * cells:
        rows = np.sort(generator.choice(rows, rows_per_cell * cells, replace=False))
    cells = min(cells, len(rows))
    if len(rows) * vectors.dimension <= _NUMBERS_IN_MEMORY:  # read once instead of once a pass
        vectors, rows = InMemory(vectors.take(rows)), np.arange(len(rows))
    centres = _first_centres(vectors, rows, cells, generator)
    for _ in range(iterations):
        sums, counts = _sums(vectors, rows, centres)
        empty = np.flatnonzero(counts == 0)
        # An empty cell takes a place in the fullest one, a hair beside its centre.
        for place, full in zip(empty, np.argsort(-counts, kind="stable"), strict=False):
            sums[place] = sums[full] + 1e-4 * counts[full] * generator.standard_normal(sums.shape[1])
        centres = _unit(sums)
    return centres


def _first_centres(vectors: Vectors, rows: Rows, cells: int, generator: np.random.Generator) -> Floats:
    """Rows far from each other (k-means++) while that is quick, any rows beyond.

    A rare group of images has no centre of its own when the first ones are drawn blindly.
    """
    if cells > _SPREAD_UP_TO:
        return vectors.take(np.sort(generator.choice(rows, cells, replace=False)))
    some = vectors.take(np.sort(generator.choice(rows, min(len(rows), 32 * cells), replace=False)))
    chosen = [int(generator.integers(len(some)))]
    distance = np.full(len(some), np.inf)
    while len(chosen) < cells:
        nearer = 1 - np.round((some @ some[chosen[-1]]).astype(np.float64), 4)
        distance = np.minimum(distance, np.maximum(nearer, 0.0))
        total = np.cumsum(distance)
        if total[-1] <= 0:  # nothing but copies of what is chosen
            left = np.setdiff1d(np.arange(len(some)), chosen)
            chosen += left[: cells - len(chosen)].tolist()
            break
        chosen.append(int(np.searchsorted(total, generator.random() * total[-1], side="right")))
    return np.asarray(some[np.sort(chosen)])


def assign(vectors: Vectors, rows: Rows, centres: Floats) -> Rows:
    """The nearest centre of each row, int64 [rows]."""
    index = _flat(centres)
    found = [index.search(vectors.take(block), 1)[1][:, 0] for block in blocks(rows)]
    return np.concatenate([*found, np.empty(0, np.int64)])


def _sums(vectors: Vectors, rows: Rows, centres: Floats) -> tuple[npt.NDArray[np.float64], Rows]:
    """Sum and number of the rows of each cell; in float64 and in a fixed order, so that threads change nothing."""
    from scipy.sparse import csr_matrix

    index = _flat(centres)
    sums, counts = np.zeros(centres.shape), np.zeros(len(centres), dtype=np.int64)
    for block in blocks(rows):
        some = vectors.take(block)
        cell = index.search(some, 1)[1][:, 0]
        ones = (np.ones(len(cell)), (cell, np.arange(len(cell))))
        sums += csr_matrix(ones, shape=(len(centres), len(cell))) @ some.astype(np.float64)
        counts += np.bincount(cell, minlength=len(centres))
    return sums, counts


def _flat(centres: Floats) -> Any:
    import faiss

    index = faiss.IndexFlatIP(centres.shape[1])
    index.add(np.ascontiguousarray(centres))
    return index


def _unit(rows: npt.NDArray[np.float64]) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)
