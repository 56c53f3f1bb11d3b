"""Scores of images against seeds: crowds, neighbours, and seeds that do not know themselves."""

from __future__ import annotations

import numpy as np
import pytest

from dinomill.curation.selection.score import Scores, score
from dinomill.vectors.index import InMemory, SearchConfig
from dinomill.vectors.rows import unit

DIM = 48


def _around(centre: np.ndarray, count: int, spread: float, generator: np.random.Generator) -> np.ndarray:
    return unit((centre + spread * generator.standard_normal((count, DIM))).astype(np.float32))


def _world(seed: int = 0) -> tuple[InMemory, np.ndarray, np.ndarray, np.ndarray]:
    """A crowd that lies close to the seeds as to itself, and some images of what the seeds show, spread widely."""
    generator = np.random.default_rng(seed)
    wanted, crowd = generator.standard_normal((2, DIM))
    images = np.concatenate([_around(wanted, 150, 0.8, generator), _around(0.8 * wanted + crowd, 850, 0.25, generator)])
    seeds = _around(wanted, 60, 0.8, generator)
    is_wanted = np.arange(1000) < 150
    return InMemory(np.concatenate([images, seeds])), np.arange(1000), np.arange(1000, 1060), is_wanted


def _ask(vectors: InMemory, images: np.ndarray, seeds: np.ndarray, **how: float) -> Scores:
    return score(vectors, images, seeds, SearchConfig(), **({"contrast": 0.5, "agreement": 0.5} | how))


def _precision(found: Scores, wanted: np.ndarray) -> float:
    best = np.argsort(-found.score, kind="stable")[: int(wanted.sum())]
    return float(wanted[best].mean())


def test_without_contrast_and_agreement_it_is_the_similarity_to_the_nearest_seed() -> None:
    vectors, images, seeds, _ = _world()
    found = _ask(vectors, images, seeds, contrast=0, agreement=0)
    products = vectors.rows[images].astype(np.float64) @ vectors.rows[seeds].astype(np.float64).T
    np.testing.assert_allclose(found.score, products.max(axis=1), atol=2e-6)
    np.testing.assert_array_equal(found.nearest, seeds[products.argmax(axis=1)])
    among = vectors.rows[seeds].astype(np.float64) @ vectors.rows[seeds].astype(np.float64).T
    np.fill_diagonal(among, -1)
    np.testing.assert_allclose(found.own, among.max(axis=1), atol=2e-6)


def test_a_crowd_as_close_to_the_seeds_as_what_they_show_is_told_from_it() -> None:
    vectors, images, seeds, wanted = _world()
    plain = _precision(_ask(vectors, images, seeds, contrast=0, agreement=0), wanted)
    full = _precision(_ask(vectors, images, seeds), wanted)
    assert full > plain + 0.1 and full > 0.9


def test_neighbours_vouch_for_an_image() -> None:
    generator = np.random.default_rng(1)
    wanted, other = generator.standard_normal((2, DIM))
    images = np.concatenate([_around(wanted, 200, 0.5, generator), _around(other, 200, 0.5, generator)])
    stray = unit((other + 0.95 * wanted).astype(np.float32)[None])  # of the others, and close to the seeds by chance
    vectors = InMemory(np.concatenate([images, stray, _around(wanted, 40, 0.5, generator)]))
    rows, seeds = np.arange(401), np.arange(401, 441)
    alone, voted = (_ask(vectors, rows, seeds, contrast=0, agreement=share).score for share in (0.0, 0.5))
    # Its place between the others (0) and what is wanted (1): it falls back to the others, whose neighbour it is.
    place = [
        (one[400] - np.median(one[200:400])) / (np.median(one[:200]) - np.median(one[200:400]))
        for one in (alone, voted)
    ]
    assert 0 < place[1] < place[0] - 0.1


def test_seeds_score_as_held_out_images_do() -> None:
    vectors, images, seeds, _ = _world()
    found = _ask(vectors, images, seeds)
    assert len(found.own) == 60
    # What is wanted in the pool was drawn like the seeds: both have the same scores but for chance.
    assert abs(np.median(found.own) - np.median(found.score[:150])) < 0.05


def test_copies_of_a_seed_tell_nothing_of_its_own_score() -> None:
    vectors, images, seeds, _ = _world()
    twice = InMemory(np.concatenate([vectors.rows, vectors.rows[seeds]]))
    once, doubled = _ask(vectors, images, seeds), _ask(twice, images, np.arange(1000, 1120))
    np.testing.assert_allclose(doubled.score, once.score, atol=1e-5)
    np.testing.assert_allclose(np.sort(doubled.own)[::2], np.sort(once.own), atol=0.1)
    only = _ask(
        InMemory(np.concatenate([vectors.rows[:1000], vectors.rows[[1000, 1000]]])), images, np.array([1000, 1001])
    )
    assert not len(only.own)


def test_more_seeds_than_are_searched_exactly_give_the_same_scores() -> None:
    vectors, images, seeds, _ = _world()
    indexed = score(vectors, images, seeds, SearchConfig(exact_up_to=32, probes=64), contrast=0.5, agreement=0.5)
    np.testing.assert_allclose(indexed.score, _ask(vectors, images, seeds).score, atol=1e-6)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_scores_are_the_same_for_any_number_of_threads(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, images, seeds, _ = _world()
    reference = _ask(vectors, images, seeds)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    again = _ask(vectors, images, seeds)
    np.testing.assert_array_equal(again.score, reference.score)
    np.testing.assert_array_equal(again.own, reference.own)


def test_a_pool_of_one_image_can_be_scored() -> None:
    vectors, _, seeds, _ = _world()
    assert _ask(vectors, np.array([3]), seeds).score.shape == (1,)
    assert np.isfinite(_ask(vectors, np.array([3, 5]), seeds[:1]).score).all()
