from __future__ import annotations

import math

import numpy as np
import pytest

from dinomill.evaluation.statistics import Bootstrap, Draws, Mean, Statistic, difference, interval
from dinomill.scores import Measure


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    right = np.arange(2000) < 1500
    found = interval(Mean.of(right), Bootstrap(20_000, 0.95, 0))
    half = 1.96 * math.sqrt(0.75 * 0.25 / 2000)
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - half, abs=1e-3)
    assert found.high == pytest.approx(0.75 + half, abs=1e-3)
    assert found.show(Measure(name="knn", title="kNN")).startswith("75.0% [73.")


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for trial in range(400):
        found = interval(Mean.of(generator.random(300) < 0.8), Bootstrap(400, 0.9, trial))
        held += found.low <= 0.8 <= found.high
    assert 0.85 <= held / 400 <= 0.95


def test_pairs_are_surer_than_two_separate_scores() -> None:
    generator = np.random.default_rng(2)
    hard = generator.random(1000) < 0.3
    first, second = ~hard, ~hard & (generator.random(1000) < 0.97)
    settings = Bootstrap(4000, 0.95, 0)
    gain = difference(Mean.of(first), Mean.of(second), settings)
    assert gain.value == pytest.approx(first.mean() - second.mean())
    assert gain.low > 0
    alone = interval(Mean.of(first), settings)
    assert gain.high - gain.low < 0.6 * (alone.high - alone.low)


def test_certainty_has_no_width() -> None:
    found = interval(Mean.of(np.ones(50, dtype=np.bool_)), Bootstrap(100, 0.95, 0))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_statistic_that_is_no_mean_has_the_interval_of_the_mean_where_it_is_one() -> None:
    each = np.random.default_rng(3).random(500)
    settings = Bootstrap(4000, 0.95, 0)
    mean = interval(Mean(each), settings)
    same = interval(Statistic(500, lambda counts: counts @ each / counts.sum(axis=1)), settings)
    assert (mean.value, mean.low, mean.high) == pytest.approx((same.value, same.low, same.high))
    half = 1.96 * each.std() / math.sqrt(500)
    assert mean.high - mean.low == pytest.approx(2 * half, rel=0.05)


def test_few_values_and_many_are_resampled_to_the_same_interval() -> None:
    """Counts of values are drawn where there are few; it is the same distribution as drawing queries."""
    each = (np.random.default_rng(4).random(800) < 0.7).astype(np.float64)
    settings = Bootstrap(8000, 0.95, 0)
    few = interval(Mean(each), settings)
    many = interval(Statistic(800, lambda counts: counts @ each / 800), settings)
    assert (few.low, few.high) == pytest.approx((many.low, many.high), abs=3e-3)


def test_statistics_are_paired_by_the_same_resamples() -> None:
    each = np.random.default_rng(5).random(400)
    settings = Bootstrap(2000, 0.95, 0)

    def of(shift: float) -> Statistic:
        return Statistic(400, lambda counts: np.sqrt(counts @ np.square(each + shift) / 400))

    gain = difference(of(0.1), of(0.0), settings)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < 0.2 * (interval(of(0.1), settings).high - interval(of(0.1), settings).low)


def test_draws_widen_the_interval_of_a_mean() -> None:
    generator = np.random.default_rng(6)
    rates = np.array([0.5, 0.6, 0.7, 0.8])[:, None]
    right = (generator.random((4, 1000)) < rates).astype(np.float64)
    settings = Bootstrap(4000, 0.95, 0)
    both, queries = interval(Draws(right), settings), interval(Mean(right.mean(axis=0)), settings)
    assert both.value == pytest.approx(queries.value)
    assert both.high - both.low > 2 * (queries.high - queries.low)
