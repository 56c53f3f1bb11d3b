from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinomill.curation.copies.stays import Pairs, Verdict, settle


class Line:
    """Images on a line: two agree when they are at most one apart."""

    def __init__(self, places: list[float]) -> None:
        self.places = np.array(places)
        self.asked: list[tuple[int, int]] = []

    def judge(self, left: Any, right: Any) -> Verdict:
        self.asked += list(zip(left.tolist(), right.tolist(), strict=True))
        distance = np.abs(self.places[left] - self.places[right])
        copies = distance <= 1
        return Verdict(copies, np.zeros(len(left), dtype=np.bool_), distance, copies)

    def pairs(self, *some: tuple[int, int]) -> Pairs:
        left, right = (np.array(side, dtype=np.int64) for side in zip(*some, strict=True))
        return Pairs(left, right, self.judge(left, right).distance)


def nobody(rows: int) -> Any:
    return np.zeros(rows, dtype=np.bool_)


def test_what_agrees_only_with_something_that_left_stays() -> None:
    line = Line([0, 0.8, 1.6])  # A ~ B ~ C, and not A ~ C
    found = settle(line.pairs((0, 1), (1, 2)), np.array([0, 1, 2]), nobody(3), line.judge)
    assert found.stays.tolist() == [0, 0, 2]
    assert (found.apart.left.tolist(), found.apart.right.tolist()) == ([0], [2])
    assert found.apart.distance.tolist() == pytest.approx([1.6])


def test_the_middle_of_a_chain_takes_both_ends_when_it_is_the_best() -> None:
    line = Line([0, 0.8, 1.6])
    found = settle(line.pairs((0, 1), (1, 2)), np.array([1, 0, 2]), nobody(3), line.judge)
    assert found.stays.tolist() == [1, 1, 1]


def test_an_image_names_the_nearest_that_stays() -> None:
    line = Line([0, 1.5, 0.9])
    found = settle(line.pairs((0, 2), (1, 2)), np.array([0, 1, 2]), nobody(3), line.judge)
    assert found.stays.tolist() == [0, 1, 1]


def test_labelled_images_stay_and_come_before_a_nearer_image() -> None:
    line = Line([0, 0.5, 0.1, 0.4])  # 0 and 1 are labelled copies of each other
    fixed = np.array([True, True, False, False])
    pairs = line.pairs((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    found = settle(pairs, np.array([0, 1, 2, 3]), fixed, line.judge)
    assert found.stays.tolist() == [0, 1, 0, 1]


def test_a_copy_of_what_is_too_close_to_a_labelled_image_stays_unless_it_is_too_close_itself() -> None:
    line = Line([0, 0.8, 1.6])
    found = settle(line.pairs((0, 1), (1, 2)), np.array([0, 1, 2]), np.array([True, False, False]), line.judge)
    assert found.stays.tolist() == [0, 0, 2]


def test_of_a_thousand_copies_one_stays_though_each_was_compared_with_few() -> None:
    generator = np.random.default_rng(0)
    rows, known = 1_000, 8
    line = Line((generator.random(rows) * 0.9).tolist())
    order = np.argsort(line.places)
    some = [(order[k], order[k + step]) for step in range(1, known) for k in range(rows - step)]
    pairs = line.pairs(*{(int(min(pair)), int(max(pair))) for pair in some})
    before = len(line.asked)
    found = settle(pairs, generator.permutation(rows), nobody(rows), line.judge)
    assert len(np.unique(found.stays)) == 1
    assert len(line.asked) - before < 3 * len(pairs.left)  # in proportion to the pairs, not to all pairs


def test_a_chain_of_a_thousand_is_settled_and_everything_that_left_agrees_with_what_stays() -> None:
    rows = 1_000
    for seed in range(3):
        generator = np.random.default_rng(seed)
        line = Line(np.cumsum(generator.uniform(0.2, 1.0, rows)).tolist())
        rank = np.arange(rows) if seed == 0 else generator.permutation(rows)
        found = settle(line.pairs(*((k, k + 1) for k in range(rows - 1))), rank, nobody(rows), line.judge)
        left = np.flatnonzero(found.stays != np.arange(rows))
        assert np.all(np.abs(line.places[left] - line.places[found.stays[left]]) <= 1)
        assert np.all(rank[found.stays[left]] < rank[left])
        assert np.all(found.stays[found.stays] == found.stays)
        staying = np.sort(line.places[found.stays == np.arange(rows)])
        assert np.all(np.diff(staying) > 1)  # of two that stay none is a copy of the other


def test_the_order_of_the_pairs_says_nothing() -> None:
    generator = np.random.default_rng(1)
    line = Line((generator.random(300) * 60).tolist())
    left, right = np.nonzero(np.triu(np.abs(line.places[:, None] - line.places) <= 1, 1))
    pairs = line.pairs(*zip(left.tolist(), right.tolist(), strict=True))
    rank = generator.permutation(300)
    first = settle(pairs, rank, nobody(300), line.judge)
    shuffled = pairs.only(generator.permutation(len(left)))  # type: ignore[arg-type]
    assert settle(shuffled, rank, nobody(300), line.judge).stays.tolist() == first.stays.tolist()


def test_no_pairs_and_no_images() -> None:
    line = Line([0.0, 5.0])
    nothing = Pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    assert settle(nothing, np.array([1, 0]), nobody(2), line.judge).stays.tolist() == [0, 1]
    assert settle(nothing, np.zeros(0, dtype=np.int64), nobody(0), line.judge).stays.tolist() == []
