from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from dinomill.curation.selection.balance import BalanceConfig, capped_shares, cluster, cluster_table, share_out
from dinomill.vectors.index import InMemory
from dinomill.vectors.rows import unit


def _entropy(share: np.ndarray) -> float:
    return float(-(share * np.log2(share)).sum())


def _imbalanced(sizes: tuple[int, ...], seed: int = 0) -> tuple[InMemory, np.ndarray]:
    generator = np.random.default_rng(seed)
    centres = unit(generator.standard_normal((len(sizes), 32)))
    label = np.repeat(np.arange(len(sizes)), sizes)
    noise = generator.standard_normal((len(label), 32)) * 0.08
    return InMemory(unit(centres[label] + noise)), label


def test_shares_add_up_and_no_cluster_gets_more_than_the_cap() -> None:
    sizes = np.array([1000, 300, 50, 7, 1])
    for target in (1, 5, 58, 333, 900, 1357):
        shares = capped_shares(sizes, target)
        assert shares.sum() == target
        assert (shares <= sizes).all()
        full = shares < sizes
        assert np.ptp(shares[full]) <= 1 if full.any() else True
    assert (capped_shares(sizes, 5000) == sizes).all()


def test_a_rare_group_survives_where_a_random_draw_would_lose_it() -> None:
    sizes = (5000, 1500, 400, 60)
    vectors, label = _imbalanced(sizes)
    config = BalanceConfig(levels=(64, 8))
    clusters = cluster(vectors, np.arange(len(label)), config)
    chosen = share_out(clusters, 400, seed=0)
    assert chosen.sum() == 400
    kept = np.bincount(label[chosen], minlength=4)
    assert kept[3] >= 40  # a fair draw would keep 3
    before, after = np.bincount(label) / len(label), kept / kept.sum()
    assert _entropy(after) > _entropy(before) + 0.5  # bits


def test_every_level_is_a_coarsening_of_the_one_below() -> None:
    vectors, label = _imbalanced((400, 200, 100))
    fine, coarse = cluster(vectors, np.arange(len(label)), BalanceConfig(levels=(20, 4)))
    for name in np.unique(fine):
        assert len(np.unique(coarse[fine == name])) == 1
    table = cluster_table([fine, coarse], np.ones(len(label), dtype=bool))
    assert sum(table["before"].to_pylist()) == len(label) == sum(table["after"].to_pylist())


def test_levels_must_fall() -> None:
    with pytest.raises(ValidationError, match="finest to the coarsest"):
        BalanceConfig(levels=(8, 64))
    with pytest.raises(ValidationError, match="target needs levels"):
        BalanceConfig(levels=(), target=5)
