"""How sure a score is: bootstrap intervals over the queries, paired for the difference of two models.

A protocol hands over what came of every query (``Outcomes``); a score is a statistic of them, and a resample of the
queries gives another value of it. Two models are resampled alike, so that what they have in common cancels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dinomill.arrays import Figures, Mask
from dinomill.scores import Difference, Figure

# Counts of queries in resamples held at once: 32 MB.
_COUNTS_AT_ONCE = 2**22
# Outcomes of fewer values than this are resampled as counts of values.
_FEW_VALUES = 64


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: percentiles over resamples of the queries, with replacement."""

    resamples: int
    confidence: float
    seed: int


class Outcomes(ABC):
    """What came of every query of one network."""

    @property
    @abstractmethod
    def value(self) -> float:
        """The score."""

    @abstractmethod
    def resampled(self, bootstrap: Bootstrap) -> Figures:
        """The score of every resample, ``[R]``: alike for two networks on the same queries."""


@dataclass(frozen=True)
class Mean(Outcomes):
    """A score that is the mean over the queries: right or not, an average precision, …"""

    each: Figures  # [Q]

    @classmethod
    def of(cls, right: Mask) -> Mean:
        """The share of right answers, ``[Q]``."""
        return cls(right.astype(np.float64))

    @property
    def value(self) -> float:
        """The mean."""
        return float(self.each.mean())

    def resampled(self, bootstrap: Bootstrap) -> Figures:
        """The mean of every resample."""
        values, counts = np.unique(self.each, return_counts=True)
        if len(values) > _FEW_VALUES:
            return resample(len(self.each), lambda weights: weights @ self.each / len(self.each), bootstrap)
        # A resample of all queries is one multinomial draw of how often each value comes.
        generator = np.random.default_rng(bootstrap.seed)
        drawn = generator.multinomial(len(self.each), counts / len(self.each), size=bootstrap.resamples)
        means: Figures = drawn @ values / len(self.each)
        return means


@dataclass(frozen=True)
class Statistic(Outcomes):
    """A score that is no mean over queries, such as a mean IoU: a function of how often each query counts.

    Args:
        queries: How many there are, Q.
        compute: From counts ``[R, Q]`` to scores ``[R]``.
    """

    queries: int
    compute: Callable[[Figures], Figures]

    @property
    def value(self) -> float:
        """Every query counted once."""
        return float(self.compute(np.ones((1, self.queries)))[0])

    def resampled(self, bootstrap: Bootstrap) -> Figures:
        """The score of every resample."""
        return resample(self.queries, self.compute, bootstrap)


@dataclass(frozen=True)
class Draws(Outcomes):
    """A mean over queries and over draws of the labelled examples: both are resampled."""

    each: Figures  # [D, Q]: outcome of every query in every draw

    @property
    def value(self) -> float:
        """The mean over both."""
        return float(self.each.mean())

    def resampled(self, bootstrap: Bootstrap) -> Figures:
        """The mean of every resample of draws and queries."""
        draws, queries = self.each.shape
        shares = np.random.default_rng([bootstrap.seed, 1]).multinomial(
            draws, np.full(draws, 1 / draws), size=bootstrap.resamples
        )
        done = 0

        def compute(weights: Figures) -> Figures:
            nonlocal done
            of_draws = shares[done : done + len(weights)]
            done += len(weights)
            means: Figures = np.einsum("rd,rd->r", of_draws, weights @ self.each.T) / (draws * queries)
            return means

        return resample(queries, compute, bootstrap)


@dataclass(frozen=True)
class Exact(Outcomes):
    """A figure that no resample of the queries changes: a number of parameters, or a speed that was timed."""

    figure: float

    @property
    def value(self) -> float:
        """Itself."""
        return self.figure

    def resampled(self, bootstrap: Bootstrap) -> Figures:
        """Itself, once for each."""
        return np.full(bootstrap.resamples, self.figure)


def resample(queries: int, compute: Callable[[Figures], Figures], bootstrap: Bootstrap) -> Figures:
    """A statistic of every resample of the queries, with replacement.

    Args:
        queries: How many there are, Q.
        compute: From counts ``[r, Q]``, each row of sum Q, to the statistic ``[r]``; called for some rows at a time.
        bootstrap: Resamples and seed: the same ones give the same counts.
    """
    generator = np.random.default_rng(bootstrap.seed)
    at_once = max(_COUNTS_AT_ONCE // max(queries, 1), 1)
    found = []
    for start in range(0, bootstrap.resamples, at_once):
        rows = min(at_once, bootstrap.resamples - start)
        drawn = generator.integers(0, queries, (rows, queries)) + queries * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries)
        found.append(np.asarray(compute(counts.astype(np.float64)), dtype=np.float64))
    return np.concatenate(found)


def interval(outcomes: Outcomes, bootstrap: Bootstrap) -> Figure:
    """The score and its confidence interval."""
    low, high = _ends(outcomes.resampled(bootstrap), bootstrap)
    return Figure(value=outcomes.value, low=low, high=high)


def difference(first: Outcomes, second: Outcomes, bootstrap: Bootstrap) -> Difference:
    """How much more the first reaches than the second, on the same queries.

    Resampling the pairs keeps what the two have in common, so that the interval is narrower than two separate ones.
    """
    if isinstance(first, Mean) and isinstance(second, Mean):
        pairs = Mean(first.each - second.each)
        low, high = _ends(pairs.resampled(bootstrap), bootstrap)
        return Difference(value=pairs.value, low=low, high=high)
    low, high = _ends(first.resampled(bootstrap) - second.resampled(bootstrap), bootstrap)
    return Difference(value=first.value - second.value, low=low, high=high)


def _ends(values: Figures, bootstrap: Bootstrap) -> tuple[float, float]:
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
