"""Sets whose images have a depth map each: ``images/<split>/<name>`` and ``depth/<split>/<name>``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.evaluation.dense.depths import Depths, Range
from dinomill.evaluation.sets.base import EvaluationSet, hash_files
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.sets.folders import described, require_folder
from dinomill.images.paired import PairedPaths, find_paired


@dataclass(frozen=True)
class DepthSet(EvaluationSet[PairedPaths]):
    """A depth for every pixel, or none.

    Args:
        within: Depths that count, and that can be predicted.
        scale: Depth of one unit of the files.
        crop: Rows and columns of the queries that are scored.
        unit: Of the depths, for people.
        median: Of the bank.
    """

    within: Range
    scale: float | None
    crop: tuple[int, int, int, int] | None
    unit: str
    median: float

    kind: ClassVar[str] = "depth"

    def targets(self, split: PairedPaths) -> Sequence[str]:
        """The hash of every map, and how it is read."""
        how = f"{self.scale} {self.crop} {self.within}"
        return [f"{one} {how}" for one in (self._bank_maps if split is self.bank else self._query_maps)]

    @cached_property
    def _bank_maps(self) -> list[str]:
        return hash_files(self.bank.targets)

    @cached_property
    def _query_maps(self) -> list[str]:
        return hash_files(self.queries.targets)


def read(config: SetConfig, name: str, limits: Limits) -> DepthSet:
    """List the folders, and look through all maps.

    Raises:
        InputError: When files are missing or differ in size, or a map holds no depth.
    """
    root = require_folder(config)
    config = described(config, root)
    targets = config.targets or "depth"
    bank = find_paired(root, limits.bank_split, targets, limit=limits.max_bank)
    queries = find_paired(root, limits.query_split, targets, limit=limits.max_queries)
    if config.crop is not None:
        _require_crop(config.crop, queries, name)
    ends, middles = zip(*_look_through(bank, config.scale), strict=True)
    _look_through(queries, config.scale)
    least, most = config.depths
    within = Range(least, float(max(ends)) if most is None else most)
    unit, median = config.unit, float(np.median(middles))
    return DepthSet(name, root, bank, queries, within, config.scale, config.crop, unit, median)


def _require_crop(crop: tuple[int, int, int, int], queries: PairedPaths, name: str) -> None:
    """Refuse a crop that is none, or does not lie within every query.

    Raises:
        InputError: Names the first image that is too small.
    """
    top, bottom, left, right = crop
    for path, (height, width) in zip(queries.paths, queries.sizes, strict=True):
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise InputError(
                f"The crop of {name} does not lie within {path}.",
                found=f"top {top}, bottom {bottom}, left {left}, right {right}",
                expected=f"0 to {height} rows and 0 to {width} columns, top < bottom and left < right",
                action=f"correct `crop` of the set {name}",
            )


def _look_through(split: PairedPaths, scale: float | None) -> list[tuple[float, float]]:
    """The greatest and the median depth of every map."""
    depths = Depths(split, scale)

    def of(index: int) -> tuple[float, float]:
        found: Floats = depths.read(index)
        return float(np.nanmax(found)), float(np.nanmedian(found))

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(of, range(len(split))))
