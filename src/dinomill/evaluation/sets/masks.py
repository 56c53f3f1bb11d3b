"""Sets whose images have a mask each: ``images/<split>/<name>`` and ``masks/<split>/<name>``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from dinomill.arrays import Rows
from dinomill.errors import InputError
from dinomill.evaluation.sets.base import EvaluationSet, hash_files
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.sets.folders import described, require_folder
from dinomill.images.masks import read_mask
from dinomill.images.paired import CLASSES_NAME, PairedPaths, find_paired, read_class_names


@dataclass(frozen=True)
class MaskedSet(EvaluationSet[PairedPaths]):
    """A class for every pixel.

    Args:
        names: Of the classes, by id.
        ignored: Ids that count for nothing.
        pixels: Of the queries by class, ``[C]``.
        bank_pixels: Of the bank by class, ``[C]``.
    """

    names: tuple[str, ...]
    ignored: tuple[int, ...]
    pixels: Rows
    bank_pixels: Rows

    kind: ClassVar[str] = "masks"

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.names

    def targets(self, split: PairedPaths) -> Sequence[str]:
        """The hash of every mask."""
        return self._bank_masks if split is self.bank else self._query_masks

    @cached_property
    def _bank_masks(self) -> list[str]:
        return hash_files(self.bank.targets)

    @cached_property
    def _query_masks(self) -> list[str]:
        return hash_files(self.queries.targets)

    @property
    def chance(self) -> float:
        """The mIoU of calling every pixel by the bank's commonest class."""
        commonest = int(self.bank_pixels.argmax())
        present = {commonest, *np.flatnonzero(self.pixels).tolist()}
        return float(self.pixels[commonest] / max(self.pixels.sum(), 1) / len(present))


def read(config: SetConfig, name: str, limits: Limits) -> MaskedSet:
    """List the folders, and look through all masks: their ids are the classes.

    Raises:
        InputError: When files are missing or differ in size, or an id has no name.
    """
    root = require_folder(config)
    config = described(config, root)
    targets = config.targets or "masks"
    bank = find_paired(root, limits.bank_split, targets, limit=limits.max_bank)
    queries = find_paired(root, limits.query_split, targets, limit=limits.max_queries)
    names = read_class_names(root)
    counts = [_count(split, config.ignored) for split in (bank, queries)]
    known = len(names) if names is not None else max(len(_total(counts[0])), 1)
    for split, each in zip((bank, queries), counts, strict=True):
        _require_known(split, each, known, named=names is not None)
    bank_pixels, pixels = (_padded(_total(each), known) for each in counts)
    for split, of_split in ((bank, bank_pixels), (queries, pixels)):
        if not of_split.any():
            raise InputError(
                f"The masks in {split.targets[0].parent} hold no pixel of a class.",
                found=f"only the ids {', '.join(map(str, config.ignored))}, which are ignored",
                action=f"correct `ignored` of the set {name}",
            )
    classes = names if names is not None else tuple(f"class {number}" for number in range(known))
    return MaskedSet(name, root, bank, queries, classes, config.ignored, pixels, bank_pixels)


def _count(split: PairedPaths, ignored: tuple[int, ...]) -> list[Rows]:
    """Pixels by id of every mask, without the ignored ones."""

    def of(path: Path) -> Rows:
        ids = read_mask(path).ravel()
        return np.bincount(ids[~np.isin(ids, ignored)])

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(of, split.targets))


def _total(each: Sequence[Rows]) -> Rows:
    length = max(len(one) for one in each)
    total: Rows = np.sum([_padded(one, length) for one in each], axis=0)
    return total


def _padded(counts: Rows, length: int) -> Rows:
    return np.pad(counts, (0, max(length - len(counts), 0)))


def _require_known(split: PairedPaths, each: Sequence[Rows], known: int, *, named: bool) -> None:
    for path, counts in zip(split.targets, each, strict=True):
        if len(counts) > known:
            raise InputError(
                f"{path} holds the class id {len(counts) - 1}.",
                found=f"{int(counts[-1])} pixels of it",
                expected=f"0 to {known - 1}, "
                + (f"the {known} lines of {split.root / CLASSES_NAME}" if named else "the ids of the bank's masks"),
                action=f"add its name to {CLASSES_NAME}, or the id to `ignored` if it stands for nothing",
            )
