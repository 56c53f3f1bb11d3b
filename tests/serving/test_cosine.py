from __future__ import annotations

import numpy as np
import pytest

from dinomill.serving.cosine import worst_cosine


def test_the_worst_cosine_counts() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert worst_cosine(rows.tolist(), rows) == pytest.approx(1)
    assert worst_cosine([[1, 0, 0], [0, 1, 0], [1, 0, 1]], rows) == pytest.approx(2**-0.5)
    assert worst_cosine([[1, 0, 0]], rows) == 0
    assert worst_cosine([[float("nan"), 0, 0]], rows[:1]) == 0
