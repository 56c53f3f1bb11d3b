"""Images stacked for matrix products: cut to what is looked at, and apart where their shapes differ much.

Stacked images are padded to the largest height and the largest width. Cut to the union of their boxes, they are as
small as they can be; parted so that padding at most doubles them, their memory goes with their pixels: one panorama
and one tower make no canvas as wide as the one and as high as the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels, Rows

_PADDING = 2.0  # bytes of a canvas over bytes of its images


@dataclass(frozen=True)
class Canvas:
    """Some images of a batch, ``[n, H, C, W]`` once written."""

    columns: Rows  # [n] their places in the batch
    images: tuple[Pixels, ...]
    boxes: npt.NDArray[np.int64]  # [V, n, 4] in the pixels of the cut images

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the canvas."""
        height, width = (max(image.shape[axis] for image in self.images) for axis in (0, 1))
        return len(self.images), height, self.images[0].shape[2], width

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the canvas."""
        return np.dtype(np.uint8)

    def write(self, out: Pixels) -> None:
        """Fill ``out``, padded below and to the right with zeros."""
        for row, image in zip(out, self.images, strict=True):
            height, width = image.shape[:2]
            row[:height, :, :width] = image.transpose(0, 2, 1)
            row[height:] = 0
            row[:height, :, width:] = 0

    def array(self) -> Pixels:
        """The canvas in memory of its own."""
        out = np.empty(self.shape, np.uint8)
        self.write(out)
        return out


def canvases(images: Sequence[Pixels], boxes: npt.NDArray[np.int64]) -> list[Canvas]:
    """Cut images to the union of their boxes and stack those of like shape.

    Args:
        images: Of a batch, each ``[H, W, C]``.
        boxes: ``[V, B, 4]`` top, left, height, width.
    """
    first = boxes[..., :2].min(axis=0)  # [B, 2]
    last = (boxes[..., :2] + boxes[..., 2:]).max(axis=0)
    cut = [
        image[top:bottom, left:right]
        for image, (top, left), (bottom, right) in zip(images, first.tolist(), last.tolist(), strict=True)
    ]
    moved = boxes.copy()
    moved[..., :2] -= first
    shapes = np.array([image.shape[:2] for image in cut])
    return [Canvas(columns, tuple(cut[column] for column in columns), moved[:, columns]) for columns in _parted(shapes)]


def _parted(shapes: npt.NDArray[np.int64]) -> list[Rows]:
    """Places of the images of each canvas, in rising order; one canvas where their shapes are much the same."""
    waiting, parts = [np.arange(len(shapes))], []
    while waiting:
        here = waiting.pop()
        own = shapes[here]
        if len(here) == 1 or len(here) * own.max(axis=0).prod() <= _PADDING * own.prod(axis=1).sum():
            parts.append(np.sort(here))
            continue
        # By height over width: a canvas has the shape of its images then, whatever their size.
        order = here[np.lexsort((here, own[:, 0] / own[:, 1]))]
        if len(set((own[:, 0] / own[:, 1]).tolist())) == 1:
            order = here[np.lexsort((here, own.prod(axis=1)))]
        at = _best_cut(shapes[order])
        waiting += [order[:at], order[at:]]
    return sorted(parts, key=lambda part: int(part[0]))


def _best_cut(shapes: npt.NDArray[np.int64]) -> int:
    """Where two canvases of a sorted list take the least memory."""
    count = np.arange(1, len(shapes))
    head = np.maximum.accumulate(shapes)[:-1].prod(axis=1) * count
    tail = np.maximum.accumulate(shapes[::-1])[:-1][::-1].prod(axis=1) * (len(shapes) - count)
    return int((head + tail).argmin()) + 1
