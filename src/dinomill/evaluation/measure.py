"""One network's features to its scores: k and regularisation are chosen on the bank, the queries only counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.linear import probe
from dinomill.evaluation.statistics import Bootstrap, Interval, accuracy
from dinomill.vectors.knn import knn_predict


@dataclass(frozen=True)
class Labels:
    """The classes of both splits."""

    bank: Tensor  # [B] int64
    queries: Tensor  # [Q] int64


@dataclass(frozen=True)
class Measured:
    """The scores of one network."""

    knn: Interval
    linear: Interval
    k: int
    l2: float
    knn_by_k: dict[int, float]  # on the queries, shown but not chosen from
    choice_by_k: dict[int, float]  # on the bank, leave-one-out
    choice_by_l2: dict[float, float]  # on the held-out part of the bank
    knn_predicted: npt.NDArray[np.int64]  # [Q]
    linear_predicted: npt.NDArray[np.int64]  # [Q]

    def details(self) -> dict[str, float]:
        """All figures by name, for the handle."""
        return {
            "k": self.k,
            "l2": self.l2,
            "knn_low": self.knn.low,
            "knn_high": self.knn.high,
            "linear_low": self.linear.low,
            "linear_high": self.linear.high,
            **{f"knn_k{k}": value for k, value in self.knn_by_k.items()},
            **{f"choice_k{k}": value for k, value in self.choice_by_k.items()},
            **{f"choice_l2_{l2:g}": value for l2, value in self.choice_by_l2.items()},
        }


def choose_k(bank: Tensor, labels: Tensor, config: EvaluationConfig) -> dict[int, float]:
    """Leave-one-out accuracy of the bank by itself, for each k; on a part of it when it is large.

    Args:
        bank: ``[B, D]``.
        labels: ``[B]`` int64.
        config: For the ks, the temperature and the number of images.
    """
    if len(bank) > config.knn.choice_images:
        generator = torch.Generator().manual_seed(config.seed)
        rows = torch.randperm(len(bank), generator=generator)[: config.knn.choice_images]
        bank, labels = bank[rows], labels[rows]
    predicted = knn_predict(bank, bank, labels, ks=config.knn.ks, temperature=config.knn.temperature, exclude_self=True)
    return {k: float((classes == labels).double().mean()) for k, classes in predicted.items()}


def measure(bank: Tensor, queries: Tensor, labels: Labels, config: EvaluationConfig) -> Measured:
    """Score one network's features.

    Args:
        bank: ``[B, D]``.
        queries: ``[Q, D]``.
        labels: Of both.
        config: The probes.
    """
    by_choice = choose_k(bank, labels.bank, config)
    # Equal accuracies: the smaller k, which stands first.
    k = max(by_choice, key=lambda k: by_choice[k])
    votes = knn_predict(queries, bank, labels.bank, ks=[*config.knn.ks, k], temperature=config.knn.temperature)
    linear = probe(bank, labels.bank, queries, config.linear, seed=config.seed)
    truth = labels.queries
    settings = Bootstrap(config.bootstrap, config.confidence, config.seed)
    return Measured(
        knn=accuracy((votes[k] == truth).numpy(), settings),
        linear=accuracy((linear.predicted == truth).numpy(), settings),
        k=k,
        l2=linear.l2,
        knn_by_k={k: float((predicted == truth).double().mean()) for k, predicted in votes.items()},
        choice_by_k=by_choice,
        choice_by_l2=linear.holdout_accuracy,
        knn_predicted=votes[k].numpy(),
        linear_predicted=linear.predicted.numpy(),
    )
