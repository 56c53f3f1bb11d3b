"""How close served embeddings are to those of the model, for the trials of packages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinomill.arrays import Floats


def worst_cosine(served: Sequence[Sequence[float]], expected: Floats) -> float:
    """The smallest cosine of corresponding rows; 0 when the shapes differ or a value is not finite."""
    got = np.asarray(served, dtype=np.float64)
    if got.shape != expected.shape or not np.isfinite(got).all():
        return 0.0
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((got * expected).sum(axis=1) / np.maximum(norms, 1e-12)).min())
