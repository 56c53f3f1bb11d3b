"""Contracts on what a stage hands on: catalog validators that hold a handle's tables against their suites.

A catalog entry names one under ``validator:``; Kedro calls it before the handle is saved, so that nothing that breaks
its contract is ever handed on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinomill.quality.gate import GateConfig


class Contract:
    """Where a contract writes what it found.

    Args:
        quality: The folder of the quality gates' results.
        work: Where Great Expectations keeps its files.
        sample_above: Rows; of a longer table a seeded sample of so many is looked at.
        docs: Build Data Docs.
    """

    def __init__(self, quality: str, work: str, sample_above: int = 200_000, docs: bool = True) -> None:
        self.folder, self.work = Path(quality), Path(work)
        self.config = GateConfig(sample_above=sample_above, docs=docs)

    def sample(self, total: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The rows of a table that are looked at: all, or a seeded sample, in order."""
        if total <= self.config.sample_above:
            return np.arange(total)
        return np.sort(np.random.default_rng(0).choice(total, self.config.sample_above, replace=False))
