"""K-means on rows of length one, the same for any number of threads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Floats, Rows
from dinomill.vectors.index import InMemory
from dinomill.vectors.products import Vectors, blocks, in_threads, nearest, nearest_of_all, one_thread

_NUMBERS_IN_MEMORY = 250_000_000  # a gigabyte
_SPREAD_UP_TO = 16_384  # cells; the cost of spreading the first centres grows with their square
_AT_LEAST = 65_536  # rows that are trained on, if there are as many


def kmeans(
    vectors: Vectors, rows: Rows, cells: int, *, seed: int = 0, iterations: int = 15, rows_per_cell: int = 64
) -> Floats:
    """Centres [cells, D] of length one (spherical k-means: cosine is what neighbours are compared by).

    Args:
        vectors: All rows.
        rows: The rows to cluster.
        cells: Centres wanted; no more than there are rows.
        seed: Of the first centres and of the training sample.
        iterations: Passes over the training sample.
        rows_per_cell: The training sample is this many rows a centre, and at least 65,536: more changes little.
    """
    generator = np.random.default_rng(seed)
    trained_on = max(_AT_LEAST, rows_per_cell * cells)
    if len(rows) > trained_on:
        rows = np.sort(generator.choice(rows, trained_on, replace=False))
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


def assign(vectors: Vectors, rows: Rows, centres: Floats) -> Rows:
    """The nearest centre of each row, int64 [rows]."""
    return nearest_of_all(vectors, rows, centres)[0]


def _first_centres(vectors: Vectors, rows: Rows, cells: int, generator: np.random.Generator) -> Floats:
    """Rows far from each other (k-means++): a rare group has no centre of its own when the first are drawn blindly.

    Each is drawn by its squared distance to those before; many cells are drawn some at a time by the same distances
    (as in k-means‖, Bahmani et al. 2012), which needs fewer passes. Beyond ``_SPREAD_UP_TO``, any rows.
    """
    if cells > _SPREAD_UP_TO:
        return vectors.take(np.sort(generator.choice(rows, cells, replace=False)))
    some = vectors.take(np.sort(generator.choice(rows, min(len(rows), 32 * cells), replace=False)))
    at_once = max(1, cells // 64)
    chosen = [int(generator.integers(len(some)))]
    newest = chosen[:]
    distance = np.full(len(some), np.inf)
    with one_thread():
        while len(chosen) < cells:
            closest = np.round((some @ some[newest].T).max(axis=1).astype(np.float64), 4)
            distance = np.minimum(distance, np.maximum(1 - closest, 0.0))
            total = np.cumsum(distance)
            if total[-1] <= 0:  # nothing but copies of what is chosen
                left = np.setdiff1d(np.arange(len(some)), chosen)
                chosen += left[: cells - len(chosen)].tolist()
                break
            drawn = generator.random(min(at_once, cells - len(chosen))) * total[-1]
            newest = np.unique(np.searchsorted(total, drawn, side="right")).tolist()
            chosen += newest
    return np.asarray(some[np.sort(chosen)])


def _sums(vectors: Vectors, rows: Rows, centres: Floats) -> tuple[npt.NDArray[np.float64], Rows]:
    """Sum and number of the rows of each cell; in float64 and in a fixed order, so that threads change nothing."""
    sums, counts = np.zeros(centres.shape), np.zeros(len(centres), dtype=np.int64)
    for some, cell in in_threads(lambda block: _with_cell(vectors.take(block), centres), blocks(rows)):
        sums += _added(some, cell, len(centres))
        counts += np.bincount(cell, minlength=len(centres))
    return sums, counts


def _with_cell(some: Floats, centres: Floats) -> tuple[Floats, Rows]:
    return some, nearest(some, centres)[0]


def _added(some: Floats, cell: Rows, cells: int) -> npt.NDArray[np.float64]:
    """The sum of the rows of each cell, float64 [cells, D]."""
    from scipy.sparse import csr_matrix

    ones = (np.ones(len(cell)), (cell, np.arange(len(cell))))
    return np.asarray(csr_matrix(ones, shape=(cells, len(cell))) @ some.astype(np.float64))


def _unit(rows: npt.NDArray[np.float64]) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)
