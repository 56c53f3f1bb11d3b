"""The order of images: a pure function of (seed, epoch, position), in constant memory at any size.

A step takes the next ``batch × world`` positions of an endless stream of epochs. Within an epoch positions are
permuted by a small Feistel cipher with cycle walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"):
no table of a hundred million indices is kept or shuffled, and any step can be asked for directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Rows
from dinomill.errors import ConfigError

_ROUNDS = 6


@dataclass(frozen=True)
class Sampler:
    """Which images a rank sees at a step.

    Args:
        images: How many there are.
        batch: Images a rank takes at a step.
        seed: Another seed, another order.
        rank: This process, of ``world``.
    """

    images: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(
                "The dataset holds no image.", action="look at the curation report: why were all left out?"
            )

    def at(self, step: int) -> tuple[Rows, Rows]:
        """The epochs ``[B]`` and rows ``[B]`` of this rank's images at a step; a batch may straddle two epochs."""
        first = (step * self.world + self.rank) * self.batch
        positions = np.arange(first, first + self.batch, dtype=np.int64)
        epochs, within = np.divmod(positions, self.images)
        rows = np.empty_like(within)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = permute(within[chosen], self.images, self.seed, int(epoch))
        return epochs, rows

    def alike(self, _row: int) -> Sequence[int] | Rows:
        """The images of which one may take another's place: here any."""
        return range(self.images)


def permute(positions: Rows, size: int, seed: int, epoch: int) -> Rows:
    """Map positions in [0, size) to rows in [0, size), one to one.

    Args:
        positions: ``[B]``.
        size: Length of the epoch.
        seed: Key of the permutation, with the epoch.
        epoch: Key of the permutation, with the seed.
    """
    half = np.uint64(max(((size - 1).bit_length() + 1) // 2, 1))
    keys = np.random.SeedSequence([seed & (2**64 - 1), epoch]).generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    rows = _encrypt(positions.astype(np.uint64), half, keys)
    # The cipher's domain is the next power of four: walk along its cycle until the value is inside.
    while (outside := rows >= size).any():
        rows[outside] = _encrypt(rows[outside], half, keys)
    return rows.astype(np.int64)


def _encrypt(values: npt.NDArray[np.uint64], half: np.uint64, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A 64-bit finaliser of the murmur family: every input bit changes about half of the output bits."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))
