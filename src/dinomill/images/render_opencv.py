"""Crops one by one with OpenCV: the fast way on a CPU for photographs.

Every step works on uint8; the last one, a table look-up, writes solarised and normalised float32 straight into the
batch. A crop that is reduced by more than √2 is taken from a half-size copy of the image (as often as needed), so that
cubic interpolation, which does not smooth, never skips pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels
from dinomill.images.crop_plan import CropPlan, luma_weights

_MAX_CHANNELS = 4  # of OpenCV's colour and resizing functions
_SQRT_2 = math.sqrt(2)
_STRIDE_FROM = 64  # rows from which the mean luma is taken from every fourth row


def normalisation_tables(
    mean: tuple[float, ...], std: tuple[float, ...], threshold: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """uint8 → normalised float32, ``[C, 256]``: plain, and solarised first."""
    values = np.arange(256.0)
    solarised = np.where(values >= threshold, 255 - values, values)

    def table(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        normalised: npt.NDArray[np.float32] = ((x / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(
            "f4"
        )
        return normalised

    return table(values), table(solarised)


@dataclass(frozen=True)
class Operations:
    """A plan as OpenCV takes it, worked out for the whole batch at once; lists are read faster than arrays."""

    boxes: list[list[list[int]]]  # [V][B] top, left, height, width
    flip: list[list[bool]]
    taps: npt.NDArray[np.float32]  # [V, B, kernel]
    blurred: list[list[bool]]
    colour: npt.NDArray[np.float64]  # [V, B, C, C + 1], the last column for a mean of 1
    coloured: list[list[bool]]
    solarise: list[list[bool]]


def operations(plan: CropPlan, kernel: int) -> Operations:
    """Prepare a plan.

    Args:
        plan: Of views of one size.
        kernel: Width of the blur's kernel.
    """
    blurred = plan.sigma > 0
    offsets = np.arange(kernel) - kernel // 2
    taps = np.exp(-(offsets**2) / (2 * np.where(blurred, plan.sigma, 1.0)[..., None] ** 2))
    taps /= taps.sum(axis=-1, keepdims=True)
    shift = np.broadcast_to(plan.mean_share[..., None, None], (*plan.matrix.shape[:3], 1))
    return Operations(
        boxes=plan.boxes.tolist(),
        flip=plan.flip.tolist(),
        taps=taps.astype(np.float32),
        blurred=blurred.tolist(),
        colour=np.concatenate([plan.matrix, shift], axis=3),
        coloured=plan.coloured.tolist(),
        solarise=plan.solarise.tolist(),
    )


def render_image(
    image: Pixels,
    todo: Operations,
    column: int,
    size: int,
    out: npt.NDArray[np.float32],
    tables: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> None:
    """Write the crops of one image that have one size.

    Args:
        image: ``[H, W, C]``, at most four channels. The boxes are in its pixels.
        todo: From ``operations``.
        column: The image's place in the batch.
        size: Side of the crops, pixels.
        out: ``[V, C, size, size]``, written.
        tables: From ``normalisation_tables``.
    """
    import cv2

    levels = [image]
    luma = luma_weights(image.shape[2])
    for view, target in enumerate(out):
        source, (top, left, height, width) = _level(levels, todo.boxes[view][column], size)
        crop: Any = source[top : top + height, left : left + width]
        if height != size or width != size:
            crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
        if todo.flip[view][column]:
            crop = cv2.flip(crop, 1)
        if todo.blurred[view][column]:
            taps = todo.taps[view, column]
            crop = cv2.sepFilter2D(crop, -1, taps, taps)
        if todo.coloured[view][column]:
            mean = cv2.mean(crop[::4] if size >= _STRIDE_FROM else crop)
            colour = todo.colour[view, column]
            colour[:, -1] *= luma @ mean[: len(luma)]
            crop = cv2.transform(crop, colour)
        table = tables[1] if todo.solarise[view][column] else tables[0]
        planes = cv2.split(crop) if len(luma) > 1 else (crop,)
        for channel, plane in enumerate(planes):
            cv2.LUT(plane, table[channel], dst=target[channel])


def supports(channels: int) -> bool:
    """Whether images of that many channels can be rendered here."""
    return channels <= _MAX_CHANNELS


def _level(levels: list[Pixels], box: list[int], size: int) -> tuple[Pixels, list[int]]:
    """The reduced copy to take a crop from, made when first needed, and the box in its pixels."""
    import cv2

    top, left, height, width = box
    reduction = min(height, width) / size
    if reduction <= _SQRT_2:
        return levels[0], box
    level = int(math.log2(reduction) + 0.5)
    while len(levels) <= level:
        finer = levels[-1]
        half = (max(finer.shape[1] // 2, 1), max(finer.shape[0] // 2, 1))
        reduced: Any = cv2.resize(finer, half, interpolation=cv2.INTER_AREA)
        levels.append(reduced.reshape(half[1], half[0], -1))
    source = levels[level]
    down, across = source.shape[0] / levels[0].shape[0], source.shape[1] / levels[0].shape[1]
    height, width = max(round(height * down), 1), max(round(width * across), 1)
    top, left = min(round(top * down), source.shape[0] - height), min(round(left * across), source.shape[1] - width)
    return source, [top, left, height, width]
