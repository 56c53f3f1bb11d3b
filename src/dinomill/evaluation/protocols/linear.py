"""Logistic regression to convergence on frozen features, its regularisation chosen on a held-out part of the bank.

DINOv2's section 7.1 trains linear classifiers by SGD over a grid of rates (see ``linear_grid``); where features are
cached, the optimum itself can be had, and no rate has to be chosen (Kornblith et al. 2019, section 3, do the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from dinomill.evaluation.logistic import probe
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config import LinearProbeConfig
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.statistics import Mean
from dinomill.scores import Measure

if TYPE_CHECKING:
    from dinomill.evaluation.split_features import NetworkFeatures


class Linear(Protocol[LinearProbeConfig, ClassifiedSet]):
    """A linear classifier of the embedding."""

    name = "linear"
    kinds = ("classes",)
    source = "Kornblith et al. 2019, section 3"

    def measures(self, data: ClassifiedSet) -> tuple[Measure, ...]:
        """The accuracy."""
        return (Measure(name="linear", title="linear probe", by="a linear probe", chance=1 / len(data.classes)),)

    def measure(self, features: NetworkFeatures, data: ClassifiedSet, settings: Settings) -> Mapping[str, Measured]:
        """Choose the strength on the held-out part, fit the whole bank with it."""
        labels, truth = (torch.from_numpy(split.labels).to(settings.device) for split in (data.bank, data.queries))
        bank, queries = (one.embedding.to(settings.device) for one in (features.bank, features.queries))
        found = probe(bank, labels, queries, self.config, seed=settings.seed)
        details = {f"choice_l2_{l2:g}": value for l2, value in found.holdout_accuracy.items()}
        right = Mean.of((found.predicted == truth).cpu().numpy())
        classifier = (found.weight.cpu(), found.bias.cpu())
        return {"linear": Measured(right, found.predicted.cpu().numpy(), {"l2": found.l2}, details, classifier)}
