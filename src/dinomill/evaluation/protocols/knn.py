"""Weighted kNN (Wu et al. 2018; DINOv2, section 7.1: k 10, 20, 100, 200 and temperature 0.07).

k is the one by which the bank classifies itself best, each image left out in turn: the queries have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config import KnnConfig
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.statistics import Mean
from dinomill.scores import Measure
from dinomill.vectors.knn import knn_predict

if TYPE_CHECKING:
    from dinomill.evaluation.results import Results
    from dinomill.evaluation.split_features import NetworkFeatures


class Knn(Protocol[KnnConfig, ClassifiedSet]):
    """The vote of the nearest bank images."""

    name = "knn"
    kinds = ("classes",)
    source = "Wu et al. 2018; DINOv2 (Oquab et al. 2023), section 7.1"

    def measures(self, data: ClassifiedSet) -> tuple[Measure, ...]:
        """The accuracy."""
        return (Measure(name="knn", title="kNN", by="neighbours", chance=1 / len(data.classes)),)

    def measure(self, features: NetworkFeatures, data: ClassifiedSet, settings: Settings) -> Mapping[str, Measured]:
        """Choose k on the bank, then count on the queries."""
        labels, truth = (torch.from_numpy(split.labels).to(settings.device) for split in (data.bank, data.queries))
        bank, queries = (one.embedding.to(settings.device) for one in (features.bank, features.queries))
        by_choice = choose_k(bank, labels, self.config, seed=settings.seed)
        # Equal accuracies: the smaller k, which stands first.
        k = max(by_choice, key=lambda k: by_choice[k])
        votes = knn_predict(queries, bank, labels, ks=[*self.config.ks, k], temperature=self.config.temperature)
        by_k = {k: float((predicted == truth).double().mean()) for k, predicted in votes.items()}
        details = {f"knn_k{k}": value for k, value in by_k.items()}  # shown, but not chosen from
        details |= {f"choice_k{k}": value for k, value in by_choice.items()}  # on the bank, leave-one-out
        right = Mean.of((votes[k] == truth).cpu().numpy())
        return {"knn": Measured(right, votes[k].cpu().numpy(), {"k": k}, details)}

    def draw(self, folder: Path, results: Results) -> Sequence[Path]:
        """Accuracy by k, and what the best network confuses."""
        from dinomill.evaluation.plots_of_classes import draw_by_k, draw_confusion

        return (draw_by_k(folder / "knn_by_k.svg", results), draw_confusion(folder / "confusion.svg", results, "knn"))


def choose_k(bank: Tensor, labels: Tensor, config: KnnConfig, *, seed: int) -> dict[int, float]:
    """Leave-one-out accuracy of the bank by itself, for each k; on a part of it when it is large.

    Args:
        bank: ``[B, D]``.
        labels: ``[B]`` int64.
        config: For the ks, the temperature and the number of images.
        seed: Of the part.
    """
    if len(bank) > config.choice_images:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(bank), generator=generator)[: config.choice_images].to(bank.device)
        bank, labels = bank[rows], labels[rows]
    predicted = knn_predict(bank, bank, labels, ks=config.ks, temperature=config.temperature, exclude_self=True)
    return {k: float((classes == labels).double().mean()) for k, classes in predicted.items()}
