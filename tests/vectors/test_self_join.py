"""Neighbours of all rows in cells, against comparing all with all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinomill.curation.copies.pairs import DeduplicationConfig, find_edges
from dinomill.curation.copies.stays import Pairs, Verdict, settle
from dinomill.execution.tasks import ExecutionConfig
from dinomill.vectors.cells import UNIT, open_cells, write_cells
from dinomill.vectors.index import InMemory, SearchConfig
from dinomill.vectors.products import Rows, Scored
from dinomill.vectors.rows import unit
from dinomill.vectors.self_join import Joined, Question, Scratch, join

ROWS, DIMENSION = 6_000, 48
IN_CELLS = SearchConfig(exact_up_to=0, cell_rows=64, check_queries=2_000)
INLINE = ExecutionConfig(executor="inline")
COPIES = Question(neighbours=16, floor=0.9)


@pytest.fixture(scope="module")
def pool() -> InMemory:
    """Rows in 30 groups; 1,200 of them copies at cosine 0.97."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((30, DIMENSION))
    rows = unit(centres[generator.integers(0, 30, ROWS)] + generator.standard_normal((ROWS, DIMENSION)))
    place = generator.permutation(ROWS)
    noise = generator.standard_normal((1_200, DIMENSION)) * 0.25 / np.sqrt(DIMENSION)
    rows[place[:1_200]] = unit(rows[place[1_200:2_400]] + noise)
    return InMemory(rows)


def _join(pool: InMemory, question: Question, folder: Path, execution: ExecutionConfig = INLINE) -> Joined:
    return join(pool, np.arange(len(pool)), question, IN_CELLS, name="test", scratch=Scratch(folder, "pool", execution))


def _keys(pairs: Scored) -> set[tuple[int, int]]:
    return set(zip(pairs.query.tolist(), pairs.row.tolist(), strict=True))


def test_cells_hold_every_row_once_and_are_small(pool: InMemory, tmp_path: Path) -> None:
    rows = np.arange(0, ROWS, 3)
    write_cells(pool, rows, 32, 0, folder=tmp_path / "cells")
    cells = open_cells(tmp_path / "cells")
    assert np.array_equal(np.sort(cells.order), rows)
    size = np.diff(cells.starts)
    assert size.min() >= 1 and size.max() <= 64
    assert np.allclose(cells.rows / UNIT, pool.take(cells.order), atol=1 / UNIT)
    own = np.repeat(np.arange(len(size)), size)
    closest = (pool.take(cells.order) @ cells.centres.T).argmax(axis=1)
    assert (closest == own).mean() > 0.8


def test_copies_are_found_as_by_comparing_all_and_the_report_says_so(pool: InMemory, tmp_path: Path) -> None:
    exact = join(pool, np.arange(ROWS), COPIES, SearchConfig(), name="test")
    found = _join(pool, COPIES, tmp_path)
    assert exact.report.kind == "exact" and "cells" in found.report.kind
    true, ours = _keys(exact.pairs), _keys(found.pairs)
    assert len(true) > 2_000 and ours <= true
    assert len(ours) / len(true) >= 0.99
    assert found.report.recall is not None and found.report.recall >= 0.98
    assert 200 < found.report.checked < len(true)


def test_the_crowd_is_about_as_far_as_it_is(pool: InMemory, tmp_path: Path) -> None:
    question = Question(neighbours=32, floor=0.9, crowd=16)
    exact = join(pool, np.arange(ROWS), question, SearchConfig(), name="test")
    found = _join(pool, question, tmp_path)
    assert (found.crowd <= exact.crowd + 1e-3).all()
    assert np.mean(exact.crowd - found.crowd) < 0.02
    assert len(_keys(found.pairs) & _keys(exact.pairs)) >= 0.99 * len(_keys(exact.pairs))


def test_workers_threads_and_restarts_give_the_same_bytes(
    pool: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question(neighbours=32, floor=0.9, crowd=16)
    first = _join(pool, question, tmp_path / "a")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    again = [_join(pool, question, tmp_path / "b", ExecutionConfig(executor="processes", workers=2))]
    parts = sorted((tmp_path / "a").rglob("*.npz"))
    parts[0].unlink()  # as if killed before it was written
    again.append(_join(pool, question, tmp_path / "a"))
    for other in again:
        for ours, theirs in zip([*first.pairs, first.crowd], [*other.pairs, other.crowd], strict=True):
            assert ours.tobytes() == theirs.tobytes()
        assert other.report == first.report


def test_of_one_picture_a_thousand_times_one_stays(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    rows = unit(generator.standard_normal((3_000, DIMENSION)))
    rows[1_000:2_500] = rows[0]
    found = _join(InMemory(rows), COPIES, tmp_path)
    assert np.bincount(found.pairs.query).max() <= COPIES.neighbours
    pairs = Pairs(*np.sort(np.stack([found.pairs.query, found.pairs.row]), axis=0), 1 - found.pairs.similarity)
    known = np.zeros(3_000, dtype=np.bool_)

    def equal(left: Rows, right: Rows) -> Verdict:
        copies = (rows[left] == rows[right]).all(axis=1)
        return Verdict(copies, ~copies & False, 1.0 - copies, copies)

    stays = settle(pairs, np.random.default_rng(2).permutation(3_000), known, equal).stays
    assert len(np.unique(stays[[0, *range(1_000, 2_500)]])) == 1
    assert len(np.unique(stays)) == 3_000 - 1_500


def test_edges_are_the_same_as_by_comparing_all(pool: InMemory) -> None:
    every, none = np.arange(ROWS), np.zeros(ROWS, dtype=np.bool_)
    settings = {"trust_embedding": True, "certain": 0.05, "max_distance": 0.08, "embedding_neighbours": 16}
    exact = find_edges(pool, pool, every, every, none, DeduplicationConfig.model_validate(settings))
    settings["search"] = IN_CELLS.model_dump()
    found = find_edges(pool, pool, every, every, none, DeduplicationConfig.model_validate(settings))
    assert set(found.searches) == {"signatures", "embeddings"}
    true, ours = (set(zip(e.left.tolist(), e.right.tolist(), strict=True)) for e in (exact, found))
    assert len(true) > 1_000 and ours <= true and len(ours) >= 0.99 * len(true)


def test_signatures_and_embeddings_of_the_same_rows_do_not_share_cells(pool: InMemory, tmp_path: Path) -> None:
    # Every file readable: row n of the one is row n of the other, in the same scratch folder.
    every, none = np.arange(ROWS), np.zeros(ROWS, dtype=np.bool_)
    looks = InMemory(np.ascontiguousarray(pool.rows[::-1]))
    settings = {"trust_embedding": True, "cosine": 0.9, "max_distance": 0.0, "certain": 0.0, "ratio": 0.0}
    exact = find_edges(looks, pool, every, every, none, DeduplicationConfig.model_validate(settings))
    in_cells = DeduplicationConfig.model_validate({**settings, "search": IN_CELLS.model_dump()})
    scratch = Scratch(tmp_path, "both", INLINE)
    found = find_edges(looks, pool, every, every, none, in_cells, scratch)
    assert len(exact.left)
    wanted = set(zip(exact.left.tolist(), exact.right.tolist(), strict=True))
    shared = wanted & set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert len(shared) >= 0.99 * len(wanted)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bytes(pool: InMemory, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    first = _join(pool, COPIES, tmp_path / "a")
    again = _join(pool, COPIES, tmp_path / "b", ExecutionConfig(executor="ray", workers=2))
    for ours, theirs in zip(first.pairs, again.pairs, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert again.report == first.report
