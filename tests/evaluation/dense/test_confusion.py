"""Mean intersection over union against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from dinomill.evaluation.dense.confusion import count, gather, known_only


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 9))
    shapes = [tuple(random.integers(5, 40, 2)) for _ in range(6)]
    # Not every class occurs, and some pixels are ignored.
    true = [random.integers(0, max(classes - seed % 3, 1), shape).astype(np.int32) for shape in shapes]
    called = [np.where(random.random(t.shape) < 0.4, t, random.integers(0, classes, t.shape)) for t in true]
    for one in true:
        one[random.random(one.shape) < 0.2] = 255
    each = [
        count(torch.from_numpy(c), torch.from_numpy(known_only(t, (255,))).long(), classes)
        for c, t in zip(called, true, strict=True)
    ]
    flat_true, flat_called = (np.concatenate([part.ravel() for part in parts]) for parts in (true, called))
    known = flat_true != 255
    present = sorted({*flat_true[known], *flat_called[known]})
    expected = jaccard_score(flat_true[known], flat_called[known], labels=present, average=None)
    counts = gather(each)
    np.testing.assert_allclose(counts.iou()[0][present], expected)
    assert counts.miou()[0] == pytest.approx(expected.mean())
    assert counts.accuracy == pytest.approx((flat_true[known] == flat_called[known]).mean())


def test_resamples_count_images_as_often_as_they_come() -> None:
    random = np.random.default_rng(0)
    true, called = random.integers(0, 3, (2, 4, 10, 10))
    each = [count(torch.from_numpy(c), torch.from_numpy(t), 3) for c, t in zip(called, true, strict=True)]
    weights = np.array([[2.0, 0, 1, 1], [1, 1, 1, 1]])
    twice = gather([each[0], each[0], each[2], each[3]]).miou()[0]
    np.testing.assert_allclose(gather(each).miou(weights), [twice, gather(each).miou()[0]])


def test_a_class_that_never_occurs_is_left_out() -> None:
    everything_zero = torch.zeros(5, 5, dtype=torch.int64)
    assert gather([count(everything_zero, everything_zero, 7)]).miou()[0] == 1.0
