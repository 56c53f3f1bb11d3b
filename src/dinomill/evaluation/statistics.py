"""How sure a score is: bootstrap intervals over the queries, paired for the difference of two models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A fraction, or a difference of two, with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def accuracy(right: Right, *, resamples: int, confidence: float, seed: int) -> Interval:
    """The share of right answers, and its percentile-bootstrap interval.

    Args:
        right: ``[Q]``: whether each query was answered rightly.
        resamples: Of the queries, with replacement.
        confidence: Such as 0.95.
        seed: Of the resampling.
    """
    return _bootstrap(right.astype(np.int8), resamples, confidence, seed)


def difference(first: Right, second: Right, *, resamples: int, confidence: float, seed: int) -> Interval:
    """How much more often the first is right than the second, on the same queries.

    Resampling the pairs keeps what the two have in common, so that the interval is narrower than two separate ones.
    """
    return _bootstrap(first.astype(np.int8) - second.astype(np.int8), resamples, confidence, seed)


def _bootstrap(outcomes: npt.NDArray[np.int8], resamples: int, confidence: float, seed: int) -> Interval:
    # Outcomes take few values, hence a resample of all queries is one multinomial draw of their counts.
    values, counts = np.unique(outcomes, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(outcomes), counts / len(outcomes), size=resamples)
    means = drawn @ values.astype(np.float64) / len(outcomes)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(outcomes.mean()), float(low), float(high))
