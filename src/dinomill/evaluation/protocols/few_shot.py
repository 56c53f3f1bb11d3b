"""Few labelled images of each class: the nearest class mean, over several draws (SimpleShot: Wang et al. 2019, CL2N).

Features are centred by the mean of the bank and brought to length 1; a class is the mean of its drawn images. Nothing
is trained or chosen, which is why it serves where there is one image of a class. A class with fewer images than are to
be drawn gives what it has, which is said beside the figure; a number that no class has is left out. DINOv2 has no such
measure; MSN (Assran et al. 2022, section 5) measures features so, by logistic regression. All networks get the same
draws.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinomill.arrays import Rows
from dinomill.errors import InputError
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config import FewShotConfig
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.statistics import Draws
from dinomill.scores import Measure

if TYPE_CHECKING:
    from dinomill.evaluation.split_features import NetworkFeatures


log = logging.getLogger(__name__)


class FewShot(Protocol[FewShotConfig, ClassifiedSet]):
    """The nearest mean of a few images a class."""

    name = "few_shot"
    kinds = ("classes",)
    source = "Wang et al. 2019 (SimpleShot), section 3"

    def measures(self, data: ClassifiedSet) -> tuple[Measure, ...]:
        """An accuracy for each number of shots that a class has."""
        counts = np.bincount(data.bank.labels, minlength=len(data.classes))
        return tuple(
            Measure(
                name=f"few_shot_{shots}",
                title=f"{shots}-shot",
                by=f"{shots} image{'s' if shots > 1 else ''} a class",
                chance=1 / len(data.classes),
                note=_fewer(counts, shots),
            )
            for shots in self._possible(counts)
        )

    def check(self, data: ClassifiedSet) -> None:
        """Say which numbers of images cannot be drawn.

        Raises:
            InputError: When none can.
        """
        counts = np.bincount(data.bank.labels, minlength=len(data.classes))
        too_many = [shots for shots in self.config.shots if shots not in self._possible(counts)]
        if len(too_many) == len(self.config.shots):
            raise InputError(
                f"{data.name} has too few images of a class for few-shot.",
                found=f"at most {counts.max()} images to learn from of a class",
                expected=f"{min(too_many)}, the least of `shots`",
                action="add labelled images, or leave the protocol out",
            )
        if too_many:
            shown = " and ".join(f"{shots}-shot" for shots in too_many)
            log.warning("%s: %s left out: no class has more than %d images.", data.name, shown, counts.max())

    def _possible(self, counts: Rows) -> tuple[int, ...]:
        return tuple(shots for shots in self.config.shots if shots <= counts.max())

    def measure(self, features: NetworkFeatures, data: ClassifiedSet, settings: Settings) -> Mapping[str, Measured]:
        """The mean over draws; its interval is of draws and queries together."""
        bank, queries = features.bank.embedding.to(settings.device), features.queries.embedding.to(settings.device)
        centre = bank.mean(dim=0)
        bank, queries = normalize(bank - centre, dim=1), normalize(queries - centre, dim=1)
        found = {}
        for shots in self._possible(np.bincount(data.bank.labels)):
            right = np.stack(
                [
                    _nearest_mean(bank, queries, drawn, len(data.classes)) == data.queries.labels
                    for drawn in draws(data.bank.labels, shots, self.config.draws, settings.seed)
                ]
            ).astype(np.float64)
            name = f"few_shot_{shots}"
            # The spread of single draws: what one choice of images may give.
            spread = {f"{name}_std": float(right.mean(axis=1).std(ddof=1))}
            found[name] = Measured(Draws(right), details=spread)
        return found


def _fewer(counts: Rows, shots: int) -> str:
    """What is said where classes have fewer images than are to be drawn."""
    fewer = counts[counts < shots]
    if not len(fewer):
        return ""
    those = f"{len(fewer):,} of {len(counts):,} classes {'has' if len(fewer) == 1 else 'have'} fewer images"
    return f"{those} (the fewest: {fewer.min()}) and give{'s' if len(fewer) == 1 else ''} what is there"


def draws(labels: Rows, shots: int, count: int, seed: int) -> list[list[Rows]]:
    """For each draw and class the rows that are drawn; all of a class that has no more."""
    classes = int(labels.max()) + 1
    members = [np.flatnonzero(labels == label) for label in range(classes)]
    found = []
    for draw in range(count):
        generator = np.random.default_rng([seed, shots, draw])
        found.append([generator.permutation(rows)[:shots] for rows in members])
    return found


def _nearest_mean(bank: Tensor, queries: Tensor, drawn: list[Rows], classes: int) -> Rows:
    """The class of every query ``[Q]``; a class without images is never named."""
    present = [label for label in range(classes) if label < len(drawn) and len(drawn[label])]
    means = torch.stack([bank[torch.from_numpy(drawn[label])].mean(dim=0) for label in present])
    # The nearest by distance: 2 q.m - |m|^2 is largest.
    scores = 2 * queries @ means.T - means.square().sum(dim=1)
    found: Rows = np.asarray(present, dtype=np.int64)[scores.argmax(dim=1).cpu().numpy()]
    return found
