"""Rows as directions."""

from __future__ import annotations

import numpy as np
import pytest

from dinomill.vectors.rows import unit


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8])
def test_every_row_has_length_one_and_a_zero_row_stays_zero(kind: type) -> None:
    rows = np.array([[3, 4, 0], [0, 0, 0], [-7, 0, 0]], dtype=kind)
    found = unit(rows)
    assert found.dtype == np.float32
    assert np.allclose(found, [[0.6, 0.8, 0], [0, 0, 0], [-1, 0, 0]])


def test_what_is_handed_over_is_not_changed() -> None:
    rows = np.full((2, 4), 2, dtype=np.float32)
    unit(rows)
    assert (rows == 2).all()
