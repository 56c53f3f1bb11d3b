"""Rows of numbers as directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def unit(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Vectors [N, D] as float32 rows of length one (zero rows stay zero)."""
    rows = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, np.float32(1e-12)), dtype=np.float32)
