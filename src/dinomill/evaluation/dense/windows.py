"""Windows over a whole image: what a network with a square input sees of an image of any shape, without distortion.

The shorter side is brought to the network's input. A longer side is covered by overlapping windows, a step of two
thirds of their side apart at most, as the official code's sliding inference has it (512 and 341 pixels); where windows
overlap, what is said of a pixel is averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dinomill.arrays import Figures, Floats, Pixels, Rows
from dinomill.errors import InputError
from dinomill.images.channels import with_channels
from dinomill.images.preprocess import PreprocessingConfig, normalise, resized

_STEP = 2 / 3
_MOST = 64  # of one image: an aspect of 40 to 1
# Numbers of one full-size map of several classes held at once: 128 MB.
_AT_ONCE = 2**25


class Placed(NamedTuple):
    """Points of an image, seen in windows."""

    window: Rows  # [P]: of which window
    y: Figures  # [P], in [0, 1] of the window's height
    x: Figures  # [P]


@dataclass(frozen=True)
class Layout:
    """Where the windows of one image lie, in pixels of the resized image.

    Args:
        height: Of the resized image.
        width: Of it.
        side: Of every window.
        tops: Of the rows of windows.
        lefts: Of the columns of windows.
    """

    height: int
    width: int
    side: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of every window, row by row."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def place(self, y: Rows, x: Rows, size: tuple[int, int]) -> Placed:
        """Pixels of the original image, each in the window whose centre is nearest.

        Args:
            y: ``[P]`` rows.
            x: ``[P]`` columns.
            size: Height and width of the original.
        """
        row, inside_y = _nearest((y + np.float64(0.5)) * (self.height / size[0]), self.tops, self.side)
        column, inside_x = _nearest((x + np.float64(0.5)) * (self.width / size[1]), self.lefts, self.side)
        return Placed(row * len(self.lefts) + column, inside_y, inside_x)


def layout(size: tuple[int, int], side: int, where: str) -> Layout:
    """The windows of an image of this height and width.

    Args:
        size: Height and width.
        side: Of the network's input.
        where: The image, for messages.

    Raises:
        InputError: When the image is so elongated that it would take more than 64 windows.
    """
    scale = side / min(size)
    height, width = (max(round(length * scale), side) for length in size)
    tops, lefts = _starts(height, side), _starts(width, side)
    if len(tops) * len(lefts) > _MOST:
        raise InputError(
            f"{where} is too elongated for a map of all of it.",
            found=f"{size[1]}×{size[0]} pixels",
            expected="a longer side of at most forty times the shorter one",
            action="cut it into parts, with its mask or depth",
        )
    return Layout(height, width, side, tops, lefts)


def cut(pixels: Pixels, windows: Layout, config: PreprocessingConfig) -> Floats:
    """The network's inputs, ``[K, C, S, S]``.

    Args:
        pixels: ``[H, W, C]``, as decoded.
        windows: Of this image.
        config: The network's; only its values, not its margin: nothing is cut off.
    """
    whole = with_channels(pixels, config.channels, config.value_range)
    if whole.shape[:2] != (windows.height, windows.width):
        whole = resized(whole, (windows.width, windows.height))
    side = windows.side
    return np.stack([normalise(whole[t : t + side, left : left + side], config) for t, left in windows.corners])


def sample(maps: Tensor, placed: Placed) -> Tensor:
    """What upsampled maps hold at points, ``[P, D]``: bilinear, as ``interpolate(align_corners=False)``.

    Args:
        maps: ``[K, D, g, g]`` of the windows of one image.
        placed: The points.
    """
    found = maps.new_empty(len(placed.window), maps.shape[1])
    points = torch.from_numpy(np.stack([placed.x, placed.y], axis=1) * 2 - 1).to(maps)
    for window in np.unique(placed.window):
        here = torch.from_numpy(np.flatnonzero(placed.window == window)).to(maps.device)
        seen = functional.grid_sample(
            maps[int(window)][None], points[here][None, None], padding_mode="border", align_corners=False
        )
        found[here] = seen[0, :, 0].T
    return found


def full_size(maps: Tensor, windows: Layout, size: tuple[int, int]) -> Tensor:
    """Maps of the windows of one image to one map of the original's size, ``[C, H, W]``.

    Args:
        maps: ``[K, C, g, g]``.
        windows: Where they lie.
        size: Height and width of the original.
    """
    if len(windows) > 1:
        maps = _joined(maps, windows)[None]
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]


def most_likely(logits: Tensor, windows: Layout, size: tuple[int, int]) -> Tensor:
    """The class with the highest upsampled logit at every pixel, ``[H, W]`` int64; a few classes at a time.

    Args:
        logits: ``[K, C, g, g]``.
        windows: Where they lie.
        size: Height and width of the original.
    """
    at_once = max(_AT_ONCE // max(size[0] * size[1], windows.height * windows.width), 1)
    best, winner = None, None
    for start in range(0, logits.shape[1], at_once):
        highest, which = full_size(logits[:, start : start + at_once], windows, size).max(dim=0)
        if best is None or winner is None:
            best, winner = highest, which
        else:
            higher = highest > best
            best, winner = torch.where(higher, highest, best), torch.where(higher, which + start, winner)
    assert winner is not None
    return winner


def _joined(maps: Tensor, windows: Layout) -> Tensor:
    """The mean of overlapping windows at the resized image's size, ``[C, H', W']``."""
    side = windows.side
    total = maps.new_zeros(maps.shape[1], windows.height, windows.width)
    count = maps.new_zeros(windows.height, windows.width)
    for one, (top, left) in zip(maps, windows.corners, strict=True):
        grown = functional.interpolate(one[None], size=(side, side), mode="bilinear", align_corners=False)[0]
        total[:, top : top + side, left : left + side] += grown
        count[top : top + side, left : left + side] += 1
    return total / count


def _starts(length: int, side: int) -> tuple[int, ...]:
    if length == side:
        return (0,)
    count = math.ceil((length - side) / (side * _STEP)) + 1
    return tuple(round(index * (length - side) / (count - 1)) for index in range(count))


def _nearest(position: Figures, starts: tuple[int, ...], side: int) -> tuple[Rows, Figures]:
    offsets = np.array(starts)
    which = np.abs(position[:, None] - (offsets + side / 2)).argmin(axis=1)
    return which, (position - offsets[which]) / side
