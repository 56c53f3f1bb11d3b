"""How sure a score is: bootstrap intervals over the queries, paired for the difference of two models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Mask


@dataclass(frozen=True)
class Interval:
    """A fraction, or a difference of two, with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: percentiles over resamples of the queries, with replacement."""

    resamples: int
    confidence: float
    seed: int


def accuracy(right: Mask, bootstrap: Bootstrap) -> Interval:
    """The share of right answers, and its interval.

    Args:
        right: ``[Q]``: whether each query was answered rightly.
        bootstrap: Resamples and confidence.
    """
    return _interval(right.astype(np.int8), bootstrap)


def difference(first: Mask, second: Mask, bootstrap: Bootstrap) -> Interval:
    """How much more often the first is right than the second, on the same queries.

    Resampling the pairs keeps what the two have in common, so that the interval is narrower than two separate ones.
    """
    return _interval(first.astype(np.int8) - second.astype(np.int8), bootstrap)


def _interval(outcomes: npt.NDArray[np.int8], bootstrap: Bootstrap) -> Interval:
    # Outcomes take few values, hence a resample of all queries is one multinomial draw of their counts.
    values, counts = np.unique(outcomes, return_counts=True)
    generator = np.random.default_rng(bootstrap.seed)
    drawn = generator.multinomial(len(outcomes), counts / len(outcomes), size=bootstrap.resamples)
    means = drawn @ values.astype(np.float64) / len(outcomes)
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(outcomes.mean()), float(low), float(high))
