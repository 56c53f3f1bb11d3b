"""Rows in cells of about the same number of alike rows, each cell's rows side by side in a file.

<folder>/rows.npy       float16 [n, D]: the rows by cell
<folder>/order.npy      int64 [n]: which row each of them is
<folder>/starts.npy     int64 [cells + 1]: where each cell begins
<folder>/centres.npy    float32 [cells, D]: the mean of each cell, of length one

K-means splits the rows into at most 64 parts, and each part again, until a part is small enough. The time is
proportional to the rows and the depth; k-means of all cells at once would take time that grows with the rows' square.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dinomill.curation.clusters import assign, kmeans
from dinomill.curation.products import Floats, Rows, Vectors, blocks
from dinomill.storage.atomic import atomic_folder

_BRANCHES = 64
_TRAINED_ON = 64  # rows a branch
_ITERATIONS = 8


class Cells(NamedTuple):
    """An opened folder; ``rows`` stays on disk."""

    rows: npt.NDArray[np.float16]  # [n, D], memory-mapped
    order: Rows  # [n]
    starts: Rows  # [cells + 1]
    centres: Floats  # [cells, D]


def write_cells(vectors: Vectors, rows: Rows, cell_rows: int, seed: int, *, folder: Path) -> None:
    """Split ``rows`` into cells of ``cell_rows`` on average and at most twice as many, and write them."""
    with atomic_folder(folder) as temporary:
        order = np.empty(len(rows), dtype=np.int64)
        starts = [0]
        for cell in _split(vectors, rows, cell_rows, seed):
            order[starts[-1] : starts[-1] + len(cell)] = cell
            starts.append(starts[-1] + len(cell))
        np.save(temporary / "order.npy", order)
        np.save(temporary / "starts.npy", np.array(starts))
        np.save(temporary / "centres.npy", _write_rows(vectors, order, np.array(starts), temporary / "rows.npy"))


def open_cells(folder: Path) -> Cells:
    """Open what ``write_cells`` wrote."""
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    return Cells(rows, *(np.load(folder / f"{name}.npy") for name in ("order", "starts", "centres")))


def _split(vectors: Vectors, rows: Rows, size: int, seed: int) -> Iterator[Rows]:
    """The rows of each cell; cells that are alike come one after the other."""
    if len(rows) <= 2 * size:
        yield rows
        return
    parts = min(_BRANCHES, -(-len(rows) // size))
    generator = np.random.default_rng([seed, int(rows[0]), len(rows)])
    some = np.sort(generator.choice(rows, min(len(rows), _TRAINED_ON * parts), replace=False))
    centres = kmeans(vectors, some, parts, seed=seed, iterations=_ITERATIONS)
    home = assign(vectors, rows, centres)
    count = np.bincount(home, minlength=parts)
    if int(count.max()) > 0.9 * len(rows):  # as good as equal rows: no centre tells them apart
        yield from blocks(rows, size)
        return
    by_home = rows[np.argsort(home, kind="stable")]
    for part in np.split(by_home, np.cumsum(count)[:-1]):
        if len(part):
            yield from _split(vectors, part, size, seed)


def _write_rows(vectors: Vectors, order: Rows, starts: Rows, path: Path) -> Floats:
    """Write the rows by cell; returns the cells' centres."""
    shape = (len(order), vectors.dimension)
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    centres = np.empty((len(starts) - 1, vectors.dimension), dtype=np.float32)
    cell = 0
    while cell < len(centres):  # whole cells, as many as fit in a block
        last = max(cell + 1, int(np.searchsorted(starts, starts[cell] + 65_536, side="right")) - 1)
        some = vectors.take(order[starts[cell] : starts[last]])
        written[starts[cell] : starts[last]] = some
        sums = np.add.reduceat(some, starts[cell:last] - starts[cell], axis=0)
        centres[cell:last] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        cell = last
    written.flush()
    return centres
