"""K-means: it finds groups, the same for any number of threads, and ends on rows that are all alike."""

from __future__ import annotations

import numpy as np
import pytest

from dinomill.arrays import Floats, Rows
from dinomill.vectors.index import InMemory
from dinomill.vectors.kmeans import assign, kmeans
from dinomill.vectors.rows import unit


def _groups(sizes: tuple[int, ...], spread: float, seed: int = 0, dimension: int = 24) -> tuple[InMemory, Rows]:
    """Directions around a centre a group."""
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(sizes)), sizes)
    centres = unit(generator.standard_normal((len(sizes), dimension)))
    rows = centres[label] + spread * generator.standard_normal((len(label), dimension)) / np.sqrt(dimension)
    return InMemory(unit(rows)), label


def _purity(label: Rows, home: Rows) -> float:
    return sum(int(np.bincount(label[home == cell]).max()) for cell in np.unique(home)) / len(label)


def test_groups_are_found_whatever_the_threads() -> None:
    import faiss

    vectors, label = _groups((300, 300, 300, 300), spread=0.6)
    every = np.arange(len(label))
    threads = faiss.omp_get_max_threads()
    found: list[Floats] = []
    try:
        for count in (1, 2):
            faiss.omp_set_num_threads(count)
            found.append(kmeans(vectors, every, 4, seed=1))
    finally:
        faiss.omp_set_num_threads(threads)
    assert np.array_equal(found[0], found[1])
    assert np.allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-5)
    assert _purity(label, assign(vectors, every, found[0])) > 0.99


def test_a_rare_group_has_a_centre_of_its_own() -> None:
    vectors, label = _groups((50,) * 10 + (5,) * 10, spread=0.01)
    every = np.arange(len(label))
    assert _purity(label, assign(vectors, every, kmeans(vectors, every, 20, seed=0))) == 1


def test_the_rows_that_are_asked_for_are_clustered_and_no_others() -> None:
    vectors, label = _groups((200, 200, 200), spread=0.3)
    rows = np.flatnonzero(label != 1)
    centres = kmeans(vectors, rows, 2, seed=0)
    assert _purity(label[rows], assign(vectors, rows, centres)) == 1
    strangers = (vectors.take(np.flatnonzero(label == 1)) @ centres.T).max(axis=1)
    own = (vectors.take(rows) @ centres.T).max(axis=1)
    assert strangers.max() < own.min()


@pytest.mark.parametrize("cells", [1, 5, 40])
def test_equal_rows_and_fewer_rows_than_cells_are_no_endless_search(cells: int) -> None:
    alike = InMemory(np.repeat(unit(np.ones((1, 8))), 30, axis=0))
    centres = kmeans(alike, np.arange(30), cells)
    assert centres.shape == (min(cells, 30), 8) and np.isfinite(centres).all()
    assert assign(alike, np.arange(30), centres).shape == (30,)
