from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from dinomill.vectors import knn as neighbours
from dinomill.vectors.knn import knn_accuracy, knn_predict, nearest, votes


def clouds(count: int, seed: int, classes: int = 5, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    return centres[labels] + 1.5 * torch.randn(count, dim, generator=generator), labels


@pytest.mark.parametrize("k", [1, 10, 20, 100])
def test_the_vote_is_that_of_scikit_learn_with_the_same_weights(k: int) -> None:
    bank, bank_labels = clouds(600, seed=1)
    queries, _ = clouds(200, seed=2)

    def weights(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp((1 - distances) / 0.07)

    peer = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute").fit(bank, bank_labels)
    ours = knn_predict(queries, bank, bank_labels, ks=[k])[k]
    assert np.array_equal(ours.numpy(), peer.predict(queries))
    similarities, rows = nearest(queries, bank, k)
    shares = votes(similarities, bank_labels[rows], 5, [k])[k]
    np.testing.assert_allclose(shares.numpy(), peer.predict_proba(queries), atol=1e-5)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, _ = clouds(500, seed=3)
    queries, _ = clouds(70, seed=4)
    whole = nearest(queries, bank, 30)
    monkeypatch.setattr(neighbours, "_BANK_CHUNK", 37)
    monkeypatch.setattr(neighbours, "_SIMILARITIES_AT_ONCE", 37 * 11)
    pieces = nearest(queries, bank, 30)
    assert torch.equal(whole[1], pieces[1])
    torch.testing.assert_close(whole[0], pieces[0])


def test_leave_one_out_leaves_only_oneself_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, _ = clouds(60, seed=5)
    monkeypatch.setattr(neighbours, "_BANK_CHUNK", 17)
    similarities, rows = nearest(bank, bank, 59, exclude_self=True)
    for row in range(60):
        assert sorted(rows[row].tolist()) == [other for other in range(60) if other != row]
    assert torch.isfinite(similarities).all()


def test_more_neighbours_than_the_bank_has_are_clipped() -> None:
    bank, labels = clouds(15, seed=6)
    assert list(knn_accuracy(bank, labels, bank, labels, ks=(10, 20, 100, 200))) == [10, 15]
    assert knn_accuracy(bank, labels, bank, labels, ks=(1,)) == {1: 1.0}


def test_the_scale_of_features_is_of_no_matter() -> None:
    bank, labels = clouds(200, seed=8)
    queries, truth = clouds(50, seed=9)
    factors = torch.rand(200, 1, generator=torch.Generator().manual_seed(1)) * 1e3 + 1e-3
    assert knn_accuracy(queries * 1e-4, truth, bank * factors, labels) == knn_accuracy(queries, truth, bank, labels)


def test_empty_inputs() -> None:
    bank, labels = clouds(5, seed=1)
    values, rows = nearest(bank[:0], bank, 3)
    assert values.shape == rows.shape == (0, 3)
    with pytest.raises(ValueError, match="too few"):
        knn_predict(bank, bank[:0], labels[:0], ks=[1])
