"""Robustness: kNN of corrupted and moved queries, by the bank as it was.

Corruptions are four kinds of ImageNet-C (Hendrycks & Dietterich 2019); moves are shifts of a pixel or two, scales and
turns. k is chosen by the bank, once. Beside both accuracies stands what is kept of the one on clean queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from dinomill.arrays import Figures, Mask
from dinomill.evaluation.changes import Change, corruptions, moves
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config import KnnConfig
from dinomill.evaluation.protocols.config_views import RobustnessConfig
from dinomill.evaluation.protocols.knn import choose_k
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.statistics import Mean, Statistic
from dinomill.evaluation.wanted import Needs, View
from dinomill.scores import Measure
from dinomill.vectors.knn import knn_predict

if TYPE_CHECKING:
    from dinomill.evaluation.split_features import NetworkFeatures, SplitFeatures

_TITLES = {"corrupted": "kNN, corrupted", "moved": "kNN, moved"}


class Robustness(Protocol[RobustnessConfig, ClassifiedSet]):
    """Queries that something happened to."""

    name = "robustness"
    kinds = ("classes",)
    source = "ImageNet-C (Hendrycks & Dietterich 2019)"

    @property
    def needs(self) -> Needs:
        """The queries, changed in every way."""
        return Needs(views=tuple(View(one.name, one.identity, one) for _, _, one in self._changes))

    @property
    def _changes(self) -> list[tuple[str, str, Change]]:
        """Group, kind and change."""
        config = self.config
        groups = {
            "corrupted": corruptions(config.severities),
            "moved": moves(config.shifts, config.scales, config.turns),
        }
        return [(group, kind, one) for group, kinds in groups.items() for kind, found in kinds.items() for one in found]

    def measures(self, data: ClassifiedSet) -> tuple[Measure, ...]:
        """Accuracy by group, and the share that is kept of the one on clean queries."""
        chance = 1 / len(data.classes)
        groups = dict.fromkeys(group for group, _, _ in self._changes)
        found = tuple(Measure(name=name, title=_TITLES[name], chance=chance) for name in groups)
        return (*found, Measure(name="kept", title="kept of clean kNN", high=None))

    def measure(self, features: NetworkFeatures, data: ClassifiedSet, settings: Settings) -> Mapping[str, Measured]:
        """Classify the queries as they are and in every changed form."""
        bank = features.bank.embedding.to(settings.device)
        labels = torch.from_numpy(data.bank.labels).to(settings.device)
        vote = KnnConfig(ks=self.config.ks, temperature=self.config.temperature)
        by_choice = choose_k(bank, labels, vote, seed=settings.seed)
        k = max(by_choice, key=lambda one: by_choice[one])

        def right(queries: SplitFeatures) -> Mask:
            found = knn_predict(queries.embedding.to(bank), bank, labels, ks=[k], temperature=vote.temperature)[k]
            answered: Mask = found.cpu().numpy() == data.queries.labels
            return answered

        clean = right(features.queries)
        changed = {one.name: right(features.views[one.name]) for _, _, one in self._changes}
        details = {f"robust_{name}": float(each.mean()) for name, each in changed.items()}
        details |= {f"robust_{kind}": value for kind, value in self._by_kind(changed).items()}
        details["robust_clean"] = float(clean.mean())
        by_group: dict[str, list[Mask]] = {}
        for group, _, one in self._changes:
            by_group.setdefault(group, []).append(changed[one.name])
        measured = {name: Measured(Mean(np.mean(each, axis=0))) for name, each in by_group.items()}
        kept = _ratio(np.mean(list(changed.values()), axis=0), clean.astype(np.float64))
        return measured | {"kept": Measured(kept, None, {"robustness_k": k}, details)}

    def _by_kind(self, changed: Mapping[str, Mask]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for _, kind, one in self._changes:
            found.setdefault(kind, []).append(float(changed[one.name].mean()))
        return {kind: float(np.mean(values)) for kind, values in found.items()}


def _ratio(each: Figures, clean: Figures) -> Statistic:
    def compute(weights: Figures) -> Figures:
        ratios: Figures = (weights @ each) / np.maximum(weights @ clean, 1e-12)
        return ratios

    return Statistic(len(each), compute)
