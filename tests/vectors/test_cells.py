"""Cells on disk: every row in one of them, near what is like it, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinomill.arrays import Rows
from dinomill.storage.hashing import hash_file
from dinomill.vectors.cells import UNIT, Router, open_cells, write_cells
from dinomill.vectors.index import InMemory
from dinomill.vectors.rows import unit


def _pairs(count: int, seed: int = 0, dimension: int = 32) -> InMemory:
    """Rows in no order, of which number n and n + count are nearly the same."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, dimension))
    return InMemory(unit(np.concatenate([rows, rows + 0.02 * generator.standard_normal(rows.shape)])))


def _home(starts: Rows, order: Rows) -> Rows:
    """The cell of each row."""
    home = np.empty(len(order), dtype=np.int64)
    home[order] = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return home


def test_every_row_is_in_one_cell_as_it_is(tmp_path: Path) -> None:
    vectors = _pairs(1500)
    rows = np.arange(0, 3000, 2)
    write_cells(vectors, rows, 50, 0, folder=tmp_path / "cells")
    cells = open_cells(tmp_path / "cells")
    assert sorted(cells.order.tolist()) == rows.tolist()
    sizes = np.diff(cells.starts)
    assert sizes.sum() == len(rows) and sizes.min() > 0 and sizes.max() <= 100
    assert np.abs(cells.rows / UNIT - vectors.take(cells.order)).max() <= 0.51 / UNIT
    for cell in (0, len(sizes) - 1):
        mean = unit(vectors.take(cells.order[cells.members(cell)]).mean(axis=0, keepdims=True))
        assert np.allclose(cells.centres[cell], mean[0], atol=1e-3)


def test_nearly_equal_rows_share_a_cell_or_the_router_knows_both(tmp_path: Path) -> None:
    vectors = _pairs(1000)
    write_cells(vectors, np.arange(2000), 40, 0, folder=tmp_path / "cells")
    cells = open_cells(tmp_path / "cells")
    home = _home(cells.starts, cells.order)
    first, second = home[:1000], home[1000:]
    assert (first == second).mean() > 0.95
    router = Router(cells.centres)
    for row in np.flatnonzero(first != second):
        assert second[row] in router.candidates(vectors.take(np.array([row])))


def test_the_same_rows_give_the_same_cells_and_equal_rows_are_cut(tmp_path: Path) -> None:
    vectors = _pairs(400)
    for name in ("a", "b"):
        write_cells(vectors, np.arange(800), 30, 5, folder=tmp_path / name)
    for name in ("rows", "order", "starts", "centres"):
        assert hash_file(tmp_path / "a" / f"{name}.npy") == hash_file(tmp_path / "b" / f"{name}.npy")
    alike = InMemory(np.repeat(unit(np.ones((1, 8))), 500, axis=0))
    write_cells(alike, np.arange(500), 30, 0, folder=tmp_path / "alike")
    assert np.diff(open_cells(tmp_path / "alike").starts).max() <= 60
