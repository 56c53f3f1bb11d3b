"""What a set of seeds asks for, by each mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinomill.curation.selection.retrieve import Retrieved, SeedSetConfig, retrieve
from dinomill.vectors.index import InMemory, SearchConfig
from dinomill.vectors.rows import unit


def _world() -> tuple[InMemory, np.ndarray, np.ndarray]:
    """200 images of what the seeds show, 600 of something else, 50 seeds."""
    generator = np.random.default_rng(0)
    wanted, other = generator.standard_normal((2, 32))
    rows = [
        centre + 0.5 * generator.standard_normal((n, 32)) for centre, n in ((wanted, 200), (other, 600), (wanted, 50))
    ]
    return InMemory(unit(np.concatenate(rows).astype(np.float32))), np.arange(800), np.arange(800, 850)


def _ask(seeds: int = 50, **settings: Any) -> Retrieved:
    vectors, images, of_set = _world()
    return retrieve(vectors, images, of_set[:seeds], SeedSetConfig(**settings), SearchConfig(), 0)


@pytest.mark.parametrize("plain", [{}, {"contrast": 0, "agreement": 0}])
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_similar_keeps_the_share_that_is_asked_for_and_nothing_else(coverage: float, plain: dict[str, Any]) -> None:
    found = _ask(coverage=coverage, **plain)
    assert found.wanted[:200].mean() == pytest.approx(coverage, abs=0.1)
    assert not found.wanted[200:].any()
    assert found.threshold is not None and (found.wanted == (found.score >= found.threshold)).all()


@pytest.mark.parametrize(
    "settings", [{"mode": "sample", "neighbours": 2}, {"mode": "cluster", "cells": 12, "minimum_seeds": 2}]
)
def test_the_papers_modes_ask_for_what_the_seeds_show(settings: dict[str, Any]) -> None:
    found = _ask(**settings)
    assert found.threshold is None and found.wanted[:200].sum() > 50 and found.wanted[200:].mean() < 0.05
    assert len(found.own) == 50  # they are judged all the same


def test_a_limit_takes_the_best_scored() -> None:
    free, capped = _ask(), _ask(limit=30)
    assert capped.wanted.sum() == 30
    assert free.score[capped.wanted].min() >= free.score[free.wanted & ~capped.wanted].max()


def test_a_single_seed_asks_for_everything() -> None:
    found = _ask(seeds=1)  # nobody knows how far from it is too far
    assert found.wanted.all() and np.isfinite(found.threshold)  # type: ignore[arg-type]
