"""Block masks for masked image modelling (Zhou et al. 2022, iBOT; block-wise sampling of Bao et al. 2022, BEiT)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.arrays import Mask
from dinomill.config import Config

_TRIES = 10  # placements tried for a block before the mask is taken as it is


class MaskingConfig(Config):
    """How global crops are masked. The defaults are DINOv2's."""

    fraction: float = Field(default=0.5, ge=0, le=1, description="of the global crops that are masked at all")
    ratio: tuple[float, float] = Field(default=(0.1, 0.5), description="masked share of a crop's patches, low and high")
    min_patches: int = Field(default=4, ge=1, description="smallest area of a block, in patches")
    min_aspect: float = Field(default=0.3, gt=0, le=1, description="a block's aspect is log-uniform in [this, 1/this]")


@dataclass(frozen=True)
class Masks:
    """The masks of a batch and what the losses need of them."""

    masks: Mask  # [2B, N]
    indices: npt.NDArray[np.int64]  # [M] into the flattened [2B·N]
    weights: npt.NDArray[np.float32]  # [M]: 1 / masked patches of the crop


def draw_masks(config: MaskingConfig, crops: int, grid: int, *, seed: int, step: int, rank: int = 0) -> Masks:
    """Masks for a batch: a pure function of (seed, step, rank).

    Args:
        config: Shares and shapes.
        crops: Global crops in the batch.
        grid: Patches a side; N = grid².
        seed: Of the run.
        step: Of the run.
        rank: Of the process.
    """
    random = np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), 0x6D61736B], counter=[0, 0, rank, step]))
    masked = int(crops * config.fraction)
    patches = grid * grid
    edges = np.linspace(config.ratio[0], config.ratio[1], masked + 1)
    targets = (patches * (edges[:-1] + (edges[1:] - edges[:-1]) * random.random(masked))).astype(np.int64)
    masks = np.zeros((crops, grid, grid), dtype=np.bool_)
    masks[:masked] = block_masks(config, targets, grid, random)
    flat = masks[random.permutation(crops)].reshape(crops, patches)
    counts = flat.sum(axis=1)
    weights = np.repeat(1.0 / np.maximum(counts, 1), counts).astype(np.float32)
    return Masks(flat, np.flatnonzero(flat).astype(np.int64), weights)


def block_masks(config: MaskingConfig, targets: npt.NDArray[np.int64], grid: int, random: np.random.Generator) -> Mask:
    """Cover about ``targets[i]`` patches of mask i with rectangles, all masks at once.

    Each round offers every unfinished mask ten rectangles and takes the first that fits; a mask is finished when its
    target is reached or none of the ten fits.

    Args:
        config: Smallest area and aspect of a block.
        targets: ``[n]`` patches to mask.
        grid: Patches a side.
        random: Where the draws come from.

    Returns:
        ``[n, grid, grid]``.
    """
    masks = np.zeros((len(targets), grid, grid), dtype=np.bool_)
    largest = grid * grid // 2  # no block covers more than half of the crop
    active = np.flatnonzero(targets > 0)
    while len(active):
        current = masks[active]
        allowed = np.minimum(targets[active] - current.sum(axis=(1, 2)), largest)
        top, left, height, width = _rectangles(config, allowed, grid, random)
        fresh = height * width - _covered(current, top, left, height, width)
        fits = (height < grid) & (width < grid) & (fresh > 0) & (fresh <= allowed[:, None])
        first = fits.argmax(axis=1)[:, None]
        found = fits.any(axis=1)
        top, left, height, width = (np.take_along_axis(v, first, 1)[found] for v in (top, left, height, width))
        lines = np.arange(grid)
        rows = (lines >= top) & (lines < top + height)
        columns = (lines >= left) & (lines < left + width)
        active = active[found]
        masks[active] |= rows[:, :, None] & columns[:, None, :]
        active = active[masks[active].sum(axis=(1, 2)) < targets[active]]
    return masks


def _rectangles(
    config: MaskingConfig, allowed: npt.NDArray[np.int64], grid: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], ...]:
    """Ten candidates for each mask: top, left, height, width, each ``[n, 10]``."""
    area, aspect, down, right = random.random((4, len(allowed), _TRIES))
    areas = config.min_patches + (allowed[:, None] - config.min_patches) * area
    aspects = np.exp(np.log(config.min_aspect) * (1 - 2 * aspect))
    height = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    width = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    top = (down * np.maximum(grid - height + 1, 1)).astype(np.int64)
    left = (right * np.maximum(grid - width + 1, 1)).astype(np.int64)
    return top, left, height, width


def _covered(
    masks: Mask,
    top: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    height: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """How many patches of each rectangle ``[n, t]`` are masked already, from summed-area tables."""
    grid = masks.shape[1]
    table = np.zeros((len(masks), grid + 1, grid + 1), dtype=np.int32)
    np.cumsum(masks, axis=1, dtype=np.int32, out=table[:, 1:, 1:])
    np.cumsum(table, axis=2, out=table)
    bottom, end = np.minimum(top + height, grid), np.minimum(left + width, grid)
    which = np.arange(len(masks))[:, None]
    inside = table[which, bottom, end] - table[which, top, end]
    inside += table[which, top, left] - table[which, bottom, left]
    covered: npt.NDArray[np.int64] = inside.astype(np.int64)
    return covered
