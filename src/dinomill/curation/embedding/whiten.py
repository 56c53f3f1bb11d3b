"""Spread features evenly: what most images share counts less, what sets a few of them apart counts more.

Features of a classifier point into a narrow cone, and a few directions (light or dark, drawn or photographed) outweigh
all others in a cosine. Whitening takes the mean away and divides each direction by its spread; directions that hardly
vary are damped, since their noise would be blown up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Floats
from dinomill.vectors.rows import unit

_SAMPLE = 100_000  # rows: mean and covariance of 1,280 numbers change little beyond
_BLOCK = 4096  # rows at once, whatever the shards' sizes: the sums are the same bits for all of them


class Whitening(NamedTuple):
    """A linear map of features."""

    mean: npt.NDArray[np.float64]  # [D]
    matrix: npt.NDArray[np.float64]  # [D, D], symmetric: the axes stay where they are

    def __call__(self, features: Floats) -> Floats:
        """Whitened features, float32 [n, D], of length one."""
        return unit(((features - self.mean) @ self.matrix).astype(np.float32))


def fit(take: Callable[[npt.NDArray[np.int64]], Floats], rows: int, damping: float) -> Whitening:
    """Find the map from up to 100,000 evenly spaced rows.

    Args:
        take: Features by row number, float32 [n, D].
        rows: How many there are.
        damping: Share of the largest variance that is added to every direction's.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    chosen = np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLE)).astype(np.int64))
    with threadpool_limits(1):  # sums in one order
        total = square = np.zeros(())
        for start in range(0, len(chosen), _BLOCK):
            some = take(chosen[start : start + _BLOCK]).astype(np.float64)
            total, square = total + some.sum(axis=0), square + some.T @ some
        mean = total / len(chosen)
        variance, axes = np.linalg.eigh(square / len(chosen) - np.outer(mean, mean))
        floor = damping * max(float(variance[-1]), 1e-12)
        matrix = (axes / np.sqrt(np.maximum(variance, 0) + floor)) @ axes.T
    return Whitening(mean, matrix)
