"""Images turned upright, and what of them is wanted, said before the rest is converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Values = TypeVar("Values", bound=np.generic)


class Box(NamedTuple):
    """A part of an image, its ends left out."""

    left: int
    top: int
    right: int
    bottom: int


Cut = Callable[[int, int], Box]
"""Height and width of an upright image to the part of it that is wanted."""


def stored_box(cut: Cut | None, height: int, width: int, orientation: int) -> Box:
    """Where the wanted part lies in the picture as it is stored, of that height and width: `orient` backwards."""
    if cut is None:
        return Box(0, 0, width, height)
    on_its_side = orientation in (5, 6, 7, 8)
    high, wide = (width, height) if on_its_side else (height, width)
    left, top, right, bottom = cut(high, wide)
    if orientation in (2, 3, 6, 7):
        left, right = wide - right, wide - left
    if orientation in (3, 4, 7, 8):
        top, bottom = high - bottom, high - top
    return Box(top, left, bottom, right) if on_its_side else Box(left, top, right, bottom)


def orient(pixels: npt.NDArray[Values], orientation: int) -> npt.NDArray[Values]:
    """Turn ``[H, W, C]`` upright by its EXIF orientation, 1 to 8; other values mean upright."""
    if orientation not in range(2, 9):
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright_part(stored: npt.NDArray[Values], orientation: int, cut: Cut | None) -> npt.NDArray[Values]:
    """The wanted part of ``[H, W, C]``, upright; the array itself where it is all of it and stands so."""
    if cut is None:
        return orient(stored, orientation)
    box = stored_box(cut, stored.shape[0], stored.shape[1], orientation)
    part = stored[box.top : box.bottom, box.left : box.right]
    # A copy where it is a part: the whole would stay in memory for as long as its view does.
    return orient(part if part.shape == stored.shape else part.copy(), orientation)
