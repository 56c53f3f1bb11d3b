"""What is remembered of a search changes nothing but the cost of the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinomill.vectors.exact_join import Joined, Question, exact_join
from dinomill.vectors.index import InMemory
from dinomill.vectors.rows import unit

DIMENSION = 32
CROWDED = Question(neighbours=32, floor=0.9, crowd=16)
COPIES = Question(neighbours=8, floor=0.8)
Array = np.ndarray[Any, Any]


def _pool(rows: int, seed: int) -> Array:
    """Rows in groups, some close copies of others."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((12, DIMENSION))
    found = unit(centres[generator.integers(0, 12, rows)] + 0.6 * generator.standard_normal((rows, DIMENSION)))
    copies = generator.permutation(rows)[: rows // 4]
    found[copies] = unit(
        found[generator.integers(0, rows, len(copies))] + 0.02 * generator.standard_normal((len(copies), DIMENSION))
    )
    return found


def _search(rows: Array, question: Question, past: Path | None = None) -> Joined:
    return exact_join(InMemory(rows), np.arange(len(rows)), question, "test", past)


def _same(ours: Joined, fresh: Joined) -> None:
    columns = ("query", "row", "similarity")
    assert all(getattr(ours.pairs, name).tobytes() == getattr(fresh.pairs, name).tobytes() for name in columns)
    assert ours.crowd.tobytes() == fresh.crowd.tobytes()


@pytest.mark.parametrize("question", [CROWDED, COPIES], ids=["crowd", "copies"])
def test_after_any_additions_and_removals_the_answer_is_that_of_a_fresh_search(
    tmp_path: Path, question: Question
) -> None:
    everything = _pool(3_000, 0)
    generator = np.random.default_rng(1)
    there = np.arange(1_500)
    compared = []
    for _ in range(8):
        found = _search(everything[there], question, tmp_path)
        _same(found, _search(everything[there], question))
        compared.append(found.report.compared / len(there))
        gone = generator.choice(there, 30, replace=False)
        new = generator.choice(np.setdiff1d(np.arange(3_000), there), 60, replace=False)
        there = generator.permutation(np.concatenate([np.setdiff1d(there, gone), new]))  # another order, too
    assert compared[0] == 1 and max(compared[1:]) < 0.5


def test_ten_new_rows_are_compared_and_no_other(tmp_path: Path) -> None:
    rows = _pool(1_010, 2)
    assert _search(rows[10:], CROWDED, tmp_path).report.compared == 1_000
    assert _search(rows, CROWDED, tmp_path).report.compared == 10
    assert _search(rows, CROWDED, tmp_path).report.compared == 0
    assert _search(rows[::-1], CROWDED, tmp_path).report.compared == 0
    assert _search(rows[:-5], CROWDED, tmp_path).report.compared == 0
    assert _search(rows, CROWDED, tmp_path).report.compared == 0  # five that were there before


def test_who_loses_too_many_neighbours_is_compared_again(tmp_path: Path) -> None:
    rows = _pool(600, 3)
    rows[:60] = unit(rows[0] + 0.01 * np.random.default_rng(0).standard_normal((60, DIMENSION)))  # a crowd of its own
    _search(rows, COPIES, tmp_path)
    left = np.concatenate([rows[:10], rows[60:]])
    found = _search(left, COPIES, tmp_path)
    assert 10 <= found.report.compared < 300
    _same(found, _search(left, COPIES))


def test_equal_rows_are_told_apart(tmp_path: Path) -> None:
    rows = _pool(400, 4)
    rows[100:160] = rows[0]
    rows[200:220] = 0  # pictures of one colour
    _search(rows, CROWDED, tmp_path)
    more = np.concatenate([rows, rows[:1], _pool(20, 5)])
    found = _search(more, CROWDED, tmp_path)
    fresh = _search(more, CROWDED)
    assert np.array_equal(found.crowd, fresh.crowd)
    assert set(zip(*map(np.ndarray.tolist, found.pairs[:2]), strict=True)) == set(
        zip(*map(np.ndarray.tolist, fresh.pairs[:2]), strict=True)
    )


def test_other_questions_and_other_vectors_do_not_share_a_memory(tmp_path: Path) -> None:
    rows = _pool(300, 6)
    _search(rows, CROWDED, tmp_path)
    assert _search(rows, COPIES, tmp_path).report.compared == 300
    _same(_search(-rows, CROWDED, tmp_path), _search(-rows, CROWDED))
    wider = unit(np.concatenate([rows, rows], axis=1))
    _same(_search(wider, CROWDED, tmp_path), _search(wider, CROWDED))


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage: str) -> None:
    rows = _pool(300, 7)
    _search(rows, CROWDED, tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"cut": bytes(content[:-500]), "flipped": bytes(content), "text": b"no archive"}[damage])
    found = _search(rows, CROWDED, tmp_path)
    assert found.report.compared == 300
    _same(found, _search(rows, CROWDED))
    assert _search(rows, CROWDED, tmp_path).report.compared == 0
