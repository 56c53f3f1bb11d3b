"""Instance retrieval (DINOv2, section 7.3): the gallery ranked by cosine to each query; mAP and recall at k.

Lists say what is easy, hard and junk, and are scored by the protocol of the revisited Oxford and Paris (Radenović et
al. 2018): **easy**: easy ones are right, hard ones are passed over · **medium**: both are right · **hard**: hard ones
are right, easy ones are passed over. Junk is passed over always. Of sets with classes, what is of the query's class is
right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch.nn import functional

from dinomill.arrays import Figures, Floats, Mask, Pixels
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config_views import RetrievalConfig
from dinomill.evaluation.ranking import average_precisions, precisions, recalls
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.sets.lists import RetrievalSet
from dinomill.evaluation.statistics import Statistic
from dinomill.evaluation.wanted import Needs, View
from dinomill.images.lists import EASY, HARD, JUNK, Box
from dinomill.scores import Measure
from dinomill.storage.hashing import hash_json

if TYPE_CHECKING:
    from dinomill.evaluation.split_features import NetworkFeatures

_BOXED = "boxed"
# difficulty: what is right, what is passed over
_DIFFICULTIES = {"easy": ((EASY,), (HARD, JUNK)), "medium": ((EASY, HARD), (JUNK,)), "hard": ((HARD,), (EASY, JUNK))}
# Similarities of a chunk of queries held at once.
_AT_ONCE = 2**24


class Retrieval(Protocol[RetrievalConfig, ClassifiedSet | RetrievalSet]):
    """The gallery, nearest first."""

    name = "retrieval"
    kinds = ("list", "classes")
    source = "DINOv2 (Oquab et al. 2023), section 7.3; Radenović et al. 2018"

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__(config)
        self._boxes: tuple[Box | None, ...] = ()

    @property
    def needs(self) -> Needs:
        """Queries as their boxes cut them out, where they have any."""
        if not any(self._boxes):
            return Needs()
        boxes = self._boxes

        def cut(pixels: Pixels, row: int) -> Pixels:
            box = boxes[row]
            return pixels if box is None else _cut(pixels, box)

        return Needs(views=(View(_BOXED, hash_json(list(boxes)), cut),))

    def check(self, data: ClassifiedSet | RetrievalSet) -> None:
        """Learn the boxes."""
        self._boxes = data.boxes if isinstance(data, RetrievalSet) else ()

    def measures(self, data: ClassifiedSet | RetrievalSet) -> tuple[Measure, ...]:
        """The mean average precision at every difficulty that the set has, and recall at 1."""
        difficulties = _difficulties(data)
        titles = {name: f"mAP, {name}" if len(difficulties) > 1 else "mAP" for name in difficulties}
        maps = tuple(Measure(name=_named("map", name, difficulties), title=titles[name]) for name in difficulties)
        recall = f"recall_{self.config.ks[0]}"
        return (*maps, Measure(name=recall, title=f"R@{self.config.ks[0]}"))

    def measure(
        self, features: NetworkFeatures, data: ClassifiedSet | RetrievalSet, settings: Settings
    ) -> Mapping[str, Measured]:
        """Rank the gallery for each query."""
        queries = features.views[_BOXED] if any(self._boxes) else features.queries
        gallery = functional.normalize(features.bank.embedding.to(settings.device).float(), dim=1)
        difficulties = _difficulties(data)
        each: dict[str, list[Figures]] = {}
        at_once = max(_AT_ONCE // len(gallery), 1)
        normalised = functional.normalize(queries.embedding.to(settings.device).float(), dim=1)
        for start in range(0, len(normalised), at_once):
            scores = (normalised[start : start + at_once] @ gallery.T).cpu().numpy()
            relations = _relations(data, start, start + len(scores))
            for difficulty in difficulties:
                right, junk = (np.isin(relations, values) for values in _DIFFICULTIES[difficulty])
                for name, values in self._figures(scores, right, junk).items():
                    each.setdefault(_named(name, difficulty, difficulties), []).append(values)
        found = {name: np.concatenate(parts) for name, parts in each.items()}
        return self._measured(found, data)

    def _figures(self, scores: Floats, right: Mask, junk: Mask) -> dict[str, Figures]:
        figures = {"map": average_precisions(scores, right, junk, self.config.average)}
        figures |= {f"recall_{k}": value for k, value in recalls(scores, right, junk, self.config.ks).items()}
        return figures | {f"precision_{k}": precisions(scores, right, junk, k) for k in self.config.ks}

    def _measured(self, found: Mapping[str, Figures], data: ClassifiedSet | RetrievalSet) -> Mapping[str, Measured]:
        difficulties = _difficulties(data)
        main = "medium" if "medium" in difficulties else difficulties[0]
        recall = _named(f"recall_{self.config.ks[0]}", main, difficulties)
        names = {measure.name: measure.name for measure in self.measures(data)}
        names[f"recall_{self.config.ks[0]}"] = recall
        details = {name: float(np.nanmean(values)) for name, values in found.items() if name not in names}
        measured = {name: Measured(_mean(found[source])) for name, source in names.items()}
        first = next(iter(measured))
        return measured | {first: Measured(measured[first].outcomes, details=details)}


def _difficulties(data: ClassifiedSet | RetrievalSet) -> tuple[str, ...]:
    """Of a set that knows nothing hard, all three are one."""
    if isinstance(data, RetrievalSet) and (data.relations == HARD).any():
        return tuple(name for name, (right, _) in _DIFFICULTIES.items() if np.isin(data.relations, right).any())
    return ("easy",)


def _named(name: str, difficulty: str, difficulties: tuple[str, ...]) -> str:
    return f"{name}_{difficulty}" if len(difficulties) > 1 else name


def _relations(
    data: ClassifiedSet | RetrievalSet, start: int, end: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    if isinstance(data, RetrievalSet):
        return data.relations[start:end]
    same = data.queries.labels[start:end, None] == data.bank.labels[None, :]
    return np.where(same, EASY, 0).astype(np.int8)


def _mean(each: Figures) -> Statistic:
    """The mean over the queries that have something to find."""
    known = np.isfinite(each)
    values = np.where(known, each, 0)

    def compute(weights: Figures) -> Figures:
        means: Figures = weights @ values / np.maximum(weights @ known, 1)
        return means

    return Statistic(len(each), compute)


def _cut(pixels: Pixels, box: Box) -> Pixels:
    left, top, right, bottom = box
    part = pixels[top:bottom, left:right]
    return part if part.size else pixels
