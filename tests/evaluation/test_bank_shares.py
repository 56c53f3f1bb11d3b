from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from dinomill.evaluation.bank_shares import drawn_by_class, part_of
from dinomill.evaluation.config import SharesConfig


def test_parts_are_nested_and_hold_every_class_in_proportion() -> None:
    labels = np.repeat(np.arange(5), [4, 8, 16, 40, 1])
    order = drawn_by_class(labels, 0)
    parts = [set(part_of(order, labels, share).tolist()) for share in (0.125, 0.25, 0.5, 1.0)]
    assert all(small <= large for small, large in pairwise(parts))
    assert len(parts[-1]) == len(labels)
    found = [np.bincount(labels[sorted(part)], minlength=5).tolist() for part in parts]
    assert found == [[1, 1, 2, 5, 1], [1, 2, 4, 10, 1], [2, 4, 8, 20, 1], [4, 8, 16, 40, 1]]
    assert set(part_of(drawn_by_class(labels, 1), labels, 0.5).tolist()) != parts[2]


def test_shares_that_are_none_are_refused() -> None:
    assert SharesConfig(parts=(0.5, 0.25, 0.5)).parts == (0.25, 0.5)
    for wrong in ({"parts": (0.5, 1.0)}, {"parts": (0.0,)}, {"protocols": ("few_shot",)}):
        with pytest.raises(ValidationError):
            SharesConfig.model_validate(wrong)
    assert SharesConfig(parts=()).parts == ()
