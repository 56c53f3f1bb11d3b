"""Sets whose images have a class each: folders ``<split>/<class>/<image>``, or a table with path, label and split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dinomill.errors import InputError
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.images.labelled import LabelledPaths, find_labelled, place_of, root_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifiedSet(EvaluationSet[LabelledPaths]):
    """A class for every image."""

    kind: ClassVar[str] = "classes"

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.bank.classes

    def targets(self, split: LabelledPaths) -> Sequence[int]:
        """The number of every image's class."""
        labels: list[int] = split.labels.tolist()
        return labels


def read(config: SetConfig, name: str, limits: Limits) -> ClassifiedSet:
    """List a folder of classes, or the images of a table.

    Raises:
        InputError: When it is not of that layout, or holds too little to measure with.
    """
    if "://" in config.labelled:
        raise InputError(
            f"The labelled images {config.labelled} are not in a folder of this machine.",
            action="copy them, and set `labelled` in conf/local/globals.yml to the folder",
        )
    root = Path(config.labelled)
    bank = find_labelled(root, limits.bank_split, limit=limits.max_bank)
    queries = find_labelled(root, limits.query_split, classes=bank.classes, limit=limits.max_queries)
    _check(bank, place_of(root, limits.bank_split))
    return ClassifiedSet(name, root_of(root), bank, queries)


def _check(bank: LabelledPaths, place: str) -> None:
    """Refuse what nothing can be measured with, and say what will measure badly."""
    counts = np.bincount(bank.labels, minlength=len(bank.classes))
    if len(bank.classes) < 2 or counts.max() < 2:
        raise InputError(
            f"{place} is too little to measure with.",
            found=f"{len(bank.classes)} classes, at most {counts.max()} images in one",
            expected="at least two classes, and several images in each",
            action="put more labelled images there, or set `labelled` in conf/local/globals.yml to null",
        )
    single = [name for name, count in zip(bank.classes, counts, strict=True) if count == 1]
    if single:
        shown = ", ".join(single[:5]) + (f" and {len(single) - 5} more" if len(single) > 5 else "")
        log.warning(
            "%s has one image alone of %d of its %d classes (%s): nothing of them can be held out, so that k and "
            "regularisation are chosen by the others. Add images of them, or leave these classes out.",
            place,
            len(single),
            len(bank.classes),
            shown,
        )
