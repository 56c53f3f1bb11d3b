"""Sets whose images have a class each: folders ``<split>/<class>/<image>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dinomill.errors import InputError
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.images.labelled import LabelledPaths, find_labelled


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
    """List a folder of classes.

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
    _check(bank, root / limits.bank_split)
    return ClassifiedSet(name, root, bank, queries)


def _check(bank: LabelledPaths, folder: Path) -> None:
    counts = np.bincount(bank.labels, minlength=len(bank.classes))
    if len(bank.classes) < 2 or counts.max() < 2:
        raise InputError(
            f"{folder} is too little to measure with.",
            found=f"{len(bank.classes)} classes, at most {counts.max()} images in one",
            expected="at least two classes, and several images in each",
            action="put more labelled images there, or set `labelled` in conf/local/globals.yml to null",
        )
