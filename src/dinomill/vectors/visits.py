"""Which cells each row is compared with: the few whose centres it is closest to.

<folder>/queries.npy     int32: the places of the rows that a cell is compared with, cell after cell
<folder>/offsets.npy     int64 [cells + 1]: where each cell's queries begin

A row looks at as few cells as held a share ``recall`` of the true neighbours of a sample of rows, and at least sixteen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Floats, Rows
from dinomill.storage.atomic import atomic_folder
from dinomill.vectors.cells import UNIT, Cells, Router
from dinomill.vectors.products import Scored, about_best, in_threads

Places = npt.NDArray[np.int32]

_LEAST = 16  # cells: a sample of some thousand pairs says little about the last in a thousand


def cells_needed(cells: Cells, queries: Floats, asked: Rows, truth: Scored, recall: float) -> int:
    """How many of its closest cells a row must look at, for a share ``recall`` of the true neighbours.

    Args:
        cells: The cells.
        queries: Some rows [q, D].
        asked: Which rows they are, [q].
        truth: Neighbours of theirs: ``query`` counts the queries.
        recall: The share.
    """
    count = len(cells.centres)
    if not len(truth.query):
        return min(count, _LEAST)
    cell_of = np.empty(int(cells.order.max()) + 1, dtype=np.int64)
    cell_of[cells.order] = np.repeat(np.arange(count), np.diff(cells.starts))
    closer = []
    for query in np.unique(truth.query):
        scores = cells.centres @ queries[query]
        scores[cell_of[asked[query]]] = 2  # its own cell in any case
        own = scores[cell_of[truth.row[truth.query == query]]]
        closer.append(count - np.searchsorted(np.sort(scores), own, side="right"))
    ranks = np.sort(np.concatenate(closer))
    return min(count, max(_LEAST, int(ranks[int(np.ceil(recall * len(ranks))) - 1]) + 1))


def write_visits(cells: Cells, looked_at: int, *, folder: Path) -> None:
    """Write which rows, by their places, each cell is compared with."""
    count = len(cells.centres)
    router = Router(cells.centres)
    firsts = range(0, count, 64)
    found = list(in_threads(lambda first: _visits(cells, router, looked_at, first, min(count, first + 64)), firsts))
    place, cell = (np.concatenate(column) for column in zip(*found, strict=True))
    queries = place[np.argsort(cell, kind="stable")]  # of 16-bit numbers: by counting
    with atomic_folder(folder) as temporary:
        np.save(temporary / "queries.npy", queries)
        np.save(temporary / "offsets.npy", np.cumsum([0, *np.bincount(cell, minlength=count)]))


def _visits(
    cells: Cells, router: Router, looked_at: int, first: int, last: int
) -> tuple[Places, npt.NDArray[np.integer[Any]]]:
    """Places of the rows of some cells, and cells that each is compared with."""
    places, found = [], []
    small = np.uint16 if len(cells.centres) < 2**16 else np.int64
    for cell in range(first, last):
        here = cells.members(cell)
        rows = cells.rows[here].astype(np.float32) / np.float32(UNIT)
        around = np.union1d(router.candidates(rows), [cell])
        scores = rows @ cells.centres[around].T
        scores[:, np.searchsorted(around, cell)] = np.inf  # its own cell in any case
        count = min(looked_at, len(around))
        place = np.flatnonzero(scores >= about_best(scores, count)[:, None])  # hardly more than the closest
        if len(place) > 2 * count * len(scores):  # few cells, or equal ones
            chosen = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            place = (np.arange(len(scores))[:, None] * len(around) + chosen).ravel()
        places.append((here.start + place // len(around)).astype(np.int32))
        found.append(around[place % len(around)].astype(small))
    return np.concatenate(places), np.concatenate(found)
