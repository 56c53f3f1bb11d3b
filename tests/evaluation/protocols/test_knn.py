"""Weighted kNN against FAISS' brute force, to the last image."""

from __future__ import annotations

import faiss
import numpy as np
import torch

from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.protocols.config import KnnConfig
from dinomill.evaluation.protocols.knn import Knn
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import NetworkFeatures
from dinomill.vectors.knn import knn_predict

KS = (10, 20, 100, 200)


def by_faiss(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> dict[int, np.ndarray]:
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)]
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(unit[0])
    similarities, rows = index.search(unit[1], KS[-1])
    weights = np.exp(similarities.astype(np.float64) / 0.07)
    said = {}
    for k in KS:
        votes = np.zeros((len(queries), labels.max() + 1))
        np.add.at(votes, (np.arange(len(queries))[:, None], labels[rows[:, :k]]), weights[:, :k])
        said[k] = votes.argmax(axis=1)
    return said


def test_every_query_is_answered_as_faiss_does(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings
) -> None:
    bank, queries = of_digits.bank.embedding.numpy(), of_digits.queries.embedding.numpy()
    expected = by_faiss(bank, digits.bank.labels, queries)
    said = knn_predict(torch.from_numpy(queries), torch.from_numpy(bank), torch.from_numpy(digits.bank.labels), ks=KS)
    for k in KS:
        assert (said[k].numpy() == expected[k]).all()
    found = Knn(KnnConfig()).measure(of_digits, digits, settings)["knn"]
    k = int(found.chosen["k"])
    assert found.predicted is not None
    assert (found.predicted == expected[k]).all()
    assert found.outcomes.value == (expected[k] == digits.queries.labels).mean()
