from __future__ import annotations

import numpy as np
import pytest

from dinomill.vectors.index import InMemory
from dinomill.vectors.products import about_best, brute_force, in_threads, may_be_best, nearest, nearest_of_all
from dinomill.vectors.rows import unit


def _rows(count: int, dimension: int = 24, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def test_brute_force_finds_the_nearest_in_order_whatever_the_blocks() -> None:
    vectors, queries = InMemory(_rows(20_000)), _rows(1_100, seed=1)
    rows = np.arange(3, 20_000, 2)
    found = brute_force(queries, vectors, rows, 7)
    scores = queries.astype(np.float64) @ vectors.rows[rows].astype(np.float64).T
    expected = rows[np.argsort(-scores, axis=1)[:, :7]]
    assert (found.row.reshape(-1, 7) == expected).mean() > 0.9999  # the last digit may swap two
    assert np.array_equal(found.query, np.repeat(np.arange(1_100), 7))
    close = brute_force(queries, vectors, rows, 7, floor=0.6)
    assert (close.similarity >= 0.6).all()
    assert len(close.query) == int(np.minimum((scores >= 0.6).sum(axis=1), 7).sum())


def test_the_bound_keeps_every_one_of_the_best_and_little_else() -> None:
    scores = np.random.default_rng(2).random((50, 4_003), dtype=np.float32)
    bound = about_best(scores, 20)
    true = np.sort(scores, axis=1)[:, -20]
    assert (bound <= true).all()
    query, column = may_be_best(scores, 20, -1.0)
    kept = np.zeros(scores.shape, dtype=bool)
    kept[query, column] = True
    assert kept[scores >= true[:, None]].all()
    assert len(query) < 2 * 20 * 50


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, centres = InMemory(_rows(40_000)), _rows(300, seed=3)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(nearest_of_all(vectors, np.arange(40_000), centres))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1].view(np.int32), found[1][1].view(np.int32))
    place, similarity = nearest(vectors.rows[:100], centres)
    assert np.array_equal(place, (vectors.rows[:100] @ centres.T).argmax(axis=1))
    assert np.allclose(similarity, (vectors.rows[:100] * centres[place]).sum(axis=1), atol=1e-6)


def test_results_come_in_order_and_errors_come_through() -> None:
    assert list(in_threads(lambda number: number * number, range(50))) == [number * number for number in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // (number - 3), range(10)))
