from __future__ import annotations

import math

import numpy as np
import pytest

from dinomill.evaluation.statistics import Bootstrap, accuracy, difference


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    right = np.arange(2000) < 1500
    found = accuracy(right, Bootstrap(20_000, 0.95, 0))
    half = 1.96 * math.sqrt(0.75 * 0.25 / 2000)
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - half, abs=1e-3)
    assert found.high == pytest.approx(0.75 + half, abs=1e-3)
    assert str(found).startswith("75.0 [73.")


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for trial in range(400):
        found = accuracy(generator.random(300) < 0.8, Bootstrap(400, 0.9, trial))
        held += found.low <= 0.8 <= found.high
    assert 0.85 <= held / 400 <= 0.95


def test_pairs_are_surer_than_two_separate_scores() -> None:
    generator = np.random.default_rng(2)
    hard = generator.random(1000) < 0.3
    first, second = ~hard, ~hard & (generator.random(1000) < 0.97)
    settings = Bootstrap(4000, 0.95, 0)
    gain = difference(first, second, settings)
    assert gain.value == pytest.approx(first.mean() - second.mean())
    assert gain.low > 0
    alone = accuracy(first, settings)
    assert gain.high - gain.low < 0.6 * (alone.high - alone.low)


def test_certainty_has_no_width() -> None:
    found = accuracy(np.ones(50, dtype=np.bool_), Bootstrap(100, 0.95, 0))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
