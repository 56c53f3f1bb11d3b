"""Crops one by one with OpenCV: the fast way on a CPU for photographs.

Every step works on uint8; the last one, a table look-up, writes solarised and normalised float32 straight into the
batch. A crop that is reduced by more than √2 is taken from a half-size copy of the image (as often as needed), so that
cubic interpolation, which does not smooth, never skips pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.images.crops import CropPlan, luma_weights

Pixels = npt.NDArray[np.uint8]
_MAX_CHANNELS = 4  # of OpenCV's colour and resizing functions
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


def render_image(
    image: Pixels,
    plan: CropPlan,
    column: int,
    size: int,
    out: npt.NDArray[np.float32],
    tables: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    kernel: int,
) -> None:
    """Write the crops of one image that have one size.

    Args:
        image: ``[H, W, C]``, at most four channels. The plan's boxes are in its pixels.
        plan: Of the views to render.
        column: The image's place in the plan.
        size: Side of the crops, pixels.
        out: ``[V, C, size, size]``, written.
        tables: From ``normalisation_tables``.
        kernel: Width of the blur's kernel.
    """
    import cv2

    levels = [image]
    luma = luma_weights(image.shape[2])
    for view in range(len(out)):
        source, (top, left, height, width) = _level(levels, plan.boxes[view, column], size)
        crop: Any = source[top : top + height, left : left + width]
        if (height, width) != (size, size):
            crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
        if plan.flip[view, column]:
            crop = cv2.flip(crop, 1)
        if plan.sigma[view, column] > 0:
            taps = cv2.getGaussianKernel(kernel, plan.sigma[view, column], cv2.CV_32F)
            crop = cv2.sepFilter2D(crop, -1, taps, taps)
        if plan.coloured[view, column]:
            rows = crop[::4] if size >= _STRIDE_FROM else crop
            mean = float(np.dot(cv2.mean(rows)[: len(luma)], luma))
            crop = _colour(crop, plan.matrix[view, column], plan.mean_share[view, column] * mean)
        table = tables[1] if plan.solarise[view, column] else tables[0]
        planes = cv2.split(crop) if crop.ndim == 3 else (crop,)
        for channel, plane in enumerate(planes):
            cv2.LUT(plane, table[channel], dst=out[view, channel])


def supports(channels: int) -> bool:
    """Whether images of that many channels can be rendered here."""
    return channels <= _MAX_CHANNELS


def _colour(crop: Pixels, matrix: npt.NDArray[np.float64], offset: float) -> Any:
    import cv2

    affine = np.concatenate([matrix, np.full((len(matrix), 1), offset)], axis=1)
    return cv2.transform(crop, affine)


def _level(levels: list[Pixels], box: npt.NDArray[np.int64], size: int) -> tuple[Pixels, tuple[int, int, int, int]]:
    """The reduced copy to take a crop from, made when first needed, and the box in its pixels."""
    import cv2

    top, left, height, width = (int(v) for v in box)
    reduction = min(height, width) / size
    level = max(int(np.floor(np.log2(reduction) + 0.5)), 0) if reduction > 1 else 0
    while len(levels) <= level:
        finer = levels[-1]
        half = (max(finer.shape[1] // 2, 1), max(finer.shape[0] // 2, 1))
        reduced: Any = cv2.resize(finer, half, interpolation=cv2.INTER_AREA)
        levels.append(reduced.reshape(half[1], half[0], -1))
    if level == 0:
        return levels[0], (top, left, height, width)
    source = levels[level]
    down, across = source.shape[0] / levels[0].shape[0], source.shape[1] / levels[0].shape[1]
    height, width = max(round(height * down), 1), max(round(width * across), 1)
    top, left = min(round(top * down), source.shape[0] - height), min(round(left * across), source.shape[1] - width)
    return source, (top, left, height, width)
