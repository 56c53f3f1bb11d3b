"""Copy detection, scored as DISC21 (Douze et al. 2021): µAP, the average precision of all pairs in one ranking.

Queries are cropped, blurred, compressed and mirrored. Some of them lie in the gallery as they were, beside the whole
bank; the copies of the others have no original there, so that one threshold has to tell copies from strangers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from dinomill.arrays import Figures, Floats, Mask
from dinomill.errors import InputError
from dinomill.evaluation.changes import copies
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config_views import CopiesConfig
from dinomill.evaluation.ranking import micro_average_precision
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.statistics import Statistic
from dinomill.evaluation.wanted import Needs, View
from dinomill.scores import Measure
from dinomill.vectors.knn import nearest

if TYPE_CHECKING:
    from dinomill.evaluation.split_features import NetworkFeatures


class Copies(Protocol[CopiesConfig, ClassifiedSet]):
    """Changed images, looked up among all others."""

    name = "copies"
    kinds = ("classes",)
    source = "DISC21 (Douze et al. 2021)"

    @property
    def needs(self) -> Needs:
        """The queries, changed."""
        return Needs(views=tuple(View(one.name, one.identity, one) for kind in self._kinds.values() for one in kind))

    @property
    def _kinds(self) -> dict[str, tuple[_Change, ...]]:
        return copies(self.config.crop_area, self.config.blur_sigma, self.config.jpeg_quality)

    def measures(self, data: ClassifiedSet) -> tuple[Measure, ...]:
        """The µAP of all kinds of copies together."""
        del data
        return (Measure(name="copies", title="copies, µAP"),)

    def check(self, data: ClassifiedSet) -> None:
        """Some query must lie in the gallery.

        Raises:
            InputError: When there are too few queries for that.
        """
        if not _originals(len(data.queries), self.config.originals).any():
            raise InputError(
                f"{data.name} has too few queries to look copies up.",
                found=f"{len(data.queries)}, of which a share of {self.config.originals:g} lies in the gallery: none",
                action="take more queries, or a larger protocols.copies.originals",
            )

    def measure(self, features: NetworkFeatures, data: ClassifiedSet, settings: Settings) -> Mapping[str, Measured]:
        """Look every copy up among originals and bank."""
        originals = _originals(len(data.queries), self.config.originals)
        gallery = torch.cat([features.queries.embedding[torch.from_numpy(originals)], features.bank.embedding])
        gallery = gallery.to(settings.device)
        place = np.cumsum(originals) - 1  # of every query in the gallery, if it is there
        scores: dict[str, Floats] = {}
        right: dict[str, Mask] = {}
        for kind, changes in self._kinds.items():
            copy = features.views[changes[0].name].embedding.to(settings.device)
            similarity, rows = nearest(copy, gallery, self.config.candidates)
            scores[kind] = similarity.cpu().numpy()
            right[kind] = (rows.cpu().numpy() == place[:, None]) & originals[:, None]
        wanted = originals.astype(np.float64)
        details = {
            f"copies_{kind}": float(micro_average_precision(scores[kind], right[kind], wanted)[0]) for kind in scores
        }
        details |= {f"copies_found_{kind}": float(right[kind][originals, 0].mean()) for kind in scores}
        return {"copies": Measured(_together(scores, right, wanted), details=details)}


def _originals(count: int, share: float) -> Mask:
    """Which queries lie in the gallery, evenly from all."""
    chosen: Mask = np.diff(np.floor(np.arange(count + 1) * share)).astype(bool)
    return chosen


def _together(scores: Mapping[str, Floats], right: Mapping[str, Mask], wanted: Figures) -> Statistic:
    """All copies in one ranking; a query is resampled with all of its copies."""
    all_scores, all_right = np.concatenate(list(scores.values())), np.concatenate(list(right.values()))
    kinds, queries = len(scores), len(wanted)
    repeated = np.tile(wanted, kinds)

    def compute(weights: Figures) -> Figures:
        return micro_average_precision(all_scores, all_right, repeated, np.tile(weights, (1, kinds)))

    return Statistic(queries, compute)


if TYPE_CHECKING:
    from dinomill.evaluation.changes import Change as _Change
