"""Average precision, recall and µAP against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from dinomill.evaluation.ranking import average_precisions, micro_average_precision, precisions, recalls


def _case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.standard_normal((7, 60)).astype(np.float32)
    return scores, random.random((7, 60)) < 0.15, random.random((7, 60)) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn_without_the_junk(seed: int) -> None:
    scores, right, junk = _case(seed)
    found = average_precisions(scores, right, junk)
    expected = [average_precision_score(r[~j], s[~j]) for s, r, j in zip(scores, right, junk, strict=True)]
    np.testing.assert_allclose(found, expected)


def test_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]], dtype=np.float32)
    right = np.array([[False, True, False, True, True]])
    junk = np.array([[False, False, True, False, False]])
    # Without the third: wrong, right, right, right: precisions 1/2, 2/3, 3/4.
    assert average_precisions(scores, right, junk)[0] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    # Before each: 0/1, 1/2, 2/3.
    trapezoids = ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3
    assert average_precisions(scores, right, junk, "trapezoids")[0] == pytest.approx(trapezoids)
    assert {k: float(v[0]) for k, v in recalls(scores, right, junk, (1, 2)).items()} == {1: 0.0, 2: 1.0}
    assert precisions(scores, right, junk, 2)[0] == pytest.approx(1 / 2)
    assert precisions(scores, right, junk, 10)[0] == pytest.approx(3 / 4)


def test_a_right_one_at_the_top_is_one_by_both_averages_and_nothing_right_is_nan() -> None:
    scores, none = np.array([[2.0, 1.0]], dtype=np.float32), np.zeros((1, 2), dtype=bool)
    first = np.array([[True, False]])
    for average in ("steps", "trapezoids"):
        assert average_precisions(scores, first, none, average)[0] == 1.0  # type: ignore[arg-type]
    assert np.isnan(average_precisions(scores, none, none)[0])
    assert np.isnan(average_precisions(scores, first, first)[0])
    assert np.isnan(recalls(scores, first, first, (1,))[1][0])


@pytest.mark.parametrize("seed", range(5))
def test_micro_average_precision_is_that_of_all_pairs(seed: int) -> None:
    scores, right, _ = _case(seed)
    scores = np.round(scores, 1)  # with equals
    found = micro_average_precision(scores, right, right.sum(axis=1).astype(float))
    assert found[0] == pytest.approx(average_precision_score(right.ravel(), scores.ravel()))


def test_micro_average_precision_of_a_resample_and_of_missed_pairs() -> None:
    scores, right, _ = _case(0)
    wanted = right.sum(axis=1).astype(float)
    weights = np.array([[3.0, 0, 1, 1, 2, 0, 0]])
    rows = [0, 0, 0, 2, 3, 4, 4]
    repeated = micro_average_precision(scores[rows], right[rows], wanted[rows])
    np.testing.assert_allclose(micro_average_precision(scores, right, wanted, weights), repeated)
    # Pairs that are no candidates count as never found.
    half = micro_average_precision(scores, right, 2 * wanted)
    np.testing.assert_allclose(half, micro_average_precision(scores, right, wanted) / 2)
