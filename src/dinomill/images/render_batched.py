"""Crops of a whole batch at once, as matrix products: the fast way on a GPU, and on a CPU for tiny images.

Cropping, flipping, cubic resampling and Gaussian blur are all linear and separable, so a crop is R·X·Cᵀ with one small
matrix for the rows and one for the columns. ``prepare`` puts a drawn plan into a few small arrays, on the host;
``render`` does the rest from these arrays alone, wherever they are: numpy arrays, or torch tensors of any device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels
from dinomill.images.array_library import ArrayLibrary, NumpyLibrary, library_of
from dinomill.images.canvases import Canvas, canvases
from dinomill.images.crop_plan import CropPlan, blur_taps, luma_weights, smoothed

_PLAIN, _SMOOTHED = -0.75, -0.5  # the cubic's free parameter: OpenCV's; Pillow's
Array = npt.NDArray[Any]
Groups = tuple[tuple[int, int, int], ...]  # first view, last view and side of the crops of each size


@dataclass(frozen=True)
class Outline:
    """What of a prepared batch is known without its arrays."""

    groups: Groups
    batch: int
    parts: int  # canvases
    threshold: int  # solarisation inverts values from here on


def prepare(
    images: Sequence[Pixels],
    plan: CropPlan,
    groups: Groups,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    kernel: int,
    threshold: int,
) -> tuple[Outline, dict[str, Array | Canvas]]:
    """Everything that the crops of a batch are made from.

    Args:
        images: ``[H, W, C]`` uint8 each.
        plan: Of all views; boxes in the images' pixels.
        groups: Views of one size.
        mean: Per channel, in [0, 1].
        std: Per channel, in [0, 1].
        kernel: Width of the blur's kernel.
        threshold: Solarisation inverts values from here on.

    Returns:
        The outline, and arrays by name: ``<canvas>`` uint8, ``<canvas>.<group>.<what>``.
    """
    parts = canvases(images, plan.boxes)
    deviation = np.array(std)
    arrays: dict[str, Array | Canvas] = {
        "gain": (1 / (255 * deviation))[:, None],
        "offset": (np.array(mean) / deviation)[:, None],
        "luma": luma_weights(len(mean)),
    }
    for number, part in enumerate(parts):
        arrays[f"{number}"] = part
        arrays[f"{number}.columns"] = part.columns
        own = plan.images(part.columns, part.boxes)
        for group, (start, stop, size) in enumerate(groups):
            if stop > start:
                prefix = f"{number}.{group}."
                arrays |= {prefix + name: a for name, a in _numbers(own.views(start, stop), size, kernel).items()}
    if any(name.endswith(".blurred") for name in arrays):
        arrays |= {f"mirror.{group}": _mirror(size, kernel) for group, (_, _, size) in enumerate(groups)}
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype == np.float64:
            arrays[name] = array.astype(np.float32)
    return Outline(groups, len(images), len(parts), threshold), arrays


def render(arrays: Mapping[str, Any], outline: Outline) -> list[Any]:
    """The crops of each group, ``[V, B, C, size, size]`` float32, from arrays that lie in one place.

    Nothing is read from the device, and nothing is brought to it.
    """
    xp, channels = library_of(arrays["gain"]), arrays["gain"].shape[0]
    crops = []
    for group, (start, stop, size) in enumerate(outline.groups):
        views = stop - start
        if not views:  # a recipe without local crops
            crops.append(xp.empty((0, outline.batch, channels, size, size)))
            continue
        parts = [_render(xp, arrays, f"{number}", group, size, outline.threshold) for number in range(outline.parts)]
        if len(parts) == 1:
            crops.append(parts[0])
            continue
        whole = xp.empty((views, outline.batch, channels, size, size))
        for number, part in enumerate(parts):
            whole[:, arrays[f"{number}.columns"]] = part
        crops.append(whole)
    return crops


def _numbers(plan: CropPlan, size: int, kernel: int) -> dict[str, Array]:
    """What a canvas's crops of one size depend on."""
    smooth = smoothed(plan.boxes, size)
    a = np.where(smooth, _SMOOTHED, _PLAIN)[..., None, None]
    numbers: dict[str, Array] = {"cubic": np.stack([a, a + 2, a + 3])}
    for name, axis, flip in (("rows", 0, np.zeros_like(plan.flip)), ("columns", 1, plan.flip)):
        start, length = plan.boxes[..., axis], plan.boxes[..., axis + 2]
        ratio = length[..., None] / size
        out = np.where(flip[..., None], np.arange(size)[::-1], np.arange(size))
        stretch = np.where(smooth[..., None], np.maximum(ratio, 1), 1.0)
        centre = (start[..., None] + (out + 0.5) * ratio - 0.5)[..., None]
        ends = np.stack([start, start + length - 1])[..., None, None]
        numbers[f"{name}.centre"] = centre
        numbers[f"{name}.narrow"] = (1 / stretch)[..., None]
        numbers[f"{name}.ends"] = ends.astype(np.float32)
        numbers[f"{name}.beyond"] = _beyond(ends, centre, ~smooth)
    blurred = np.flatnonzero(plan.sigma > 0)
    if len(blurred):
        taps = blur_taps(plan.sigma.ravel()[blurred], kernel)
        numbers["blurred"] = blurred
        numbers["taps"] = np.concatenate([taps, np.zeros((len(taps), 1))], axis=1)  # the last one: no tap
    if plan.coloured.any():
        channels = plan.matrix.shape[-1]
        numbers["matrix"] = plan.matrix if channels == 3 else plan.matrix[..., :1, :1]
        numbers["share"] = plan.mean_share[..., None, None]
    if len(solarised := np.flatnonzero(plan.solarise)):
        numbers["solarised"] = solarised
    return numbers


def _beyond(ends: Array, centre: Array, plain: Array) -> Array:
    """``[2, V, n, size, 1]``: what the plain cubic would give to the two pixels before a crop and the two after it."""
    beyond = np.zeros((2, *centre.shape), np.float32)
    outwards = np.array([[-1.0, -2.0], [1.0, 2.0]])[:, None, None, None]
    weights = _cubic(
        NumpyLibrary(), abs(ends[:, plain] + outwards[:, 0] - centre[plain]), _PLAIN, _PLAIN + 2, _PLAIN + 3
    )
    beyond[:, plain] = weights.sum(-1, keepdims=True)
    return beyond


def _mirror(size: int, kernel: int) -> Array:
    """``[3, size, size]``: which tap leads from pixel j to pixel i: straight, and mirrored at either border.

    Mirrored without repeating the edge; ``kernel`` where none does.
    """
    line, half = np.arange(size), kernel // 2
    i, j = line[:, None], line[None]
    straight = j - i + half
    low = np.where(j > 0, half - i - j, -1)
    high = np.where(j < size - 1, half + 2 * (size - 1) - i - j, -1)
    taps = np.stack([straight, low, high])
    return np.where((taps >= 0) & (taps < kernel), taps, kernel).astype(np.int32)


def _render(xp: ArrayLibrary, arrays: Mapping[str, Any], part: str, group: int, size: int, threshold: int) -> Any:
    """The crops ``[V, n, C, size, size]`` of one canvas."""
    images, prefix = arrays[part], f"{part}.{group}."
    batch, height, channels, width = images.shape
    rows = _resampling(xp, arrays, prefix, "rows", group, height)
    columns = _resampling(xp, arrays, prefix, "columns", group, width)
    views = rows.shape[0]
    # [n, V·S, H] × [n, H, C·W]: one product an image for all of its views.
    tall = xp.permute(rows, (1, 0, 2, 3)).reshape(batch, views * size, height)
    x = tall @ xp.floats(images).reshape(batch, height, channels * width)
    x = x.reshape(batch, views, size * channels, width) @ xp.permute(columns, (1, 0, 3, 2))
    x = x.reshape(batch, views, size, channels, size)
    x = xp.permute(x, (1, 0, 3, 2, 4)).reshape(views, batch, channels, size * size).clip(0, 255)
    if prefix + "matrix" in arrays:
        mean = (x.mean(-1) * arrays["luma"]).sum(-1)[..., None, None]
        matrix = arrays[prefix + "matrix"]
        x = (matrix @ x if matrix.shape[-1] == channels > 1 else x * matrix) + mean * arrays[prefix + "share"]
        x = x.clip(0, 255)
    if prefix + "solarised" in arrays:
        flat, index = x.reshape(-1, *x.shape[2:]), arrays[prefix + "solarised"]
        picked = flat[index]
        flat[index] = xp.where(picked >= threshold, 255 - picked, picked)
        x = flat.reshape(x.shape)
    x *= arrays["gain"]
    x -= arrays["offset"]
    return x.reshape(views, batch, channels, size, size)


def _resampling(xp: ArrayLibrary, arrays: Mapping[str, Any], prefix: str, axis: str, group: int, extent: int) -> Any:
    """Matrices ``[V, n, size, extent]``: output pixel ← image pixels along one axis, for crop, flip, cubic and blur.

    Smoothing widens the cubic by the reduction. Beyond the crop's edge a widened cubic has no weight, as in Pillow, and
    the plain one, which reaches two pixels, meets the edge's pixels again, as in OpenCV.
    """
    centre, narrow, ends, beyond = (arrays[f"{prefix}{axis}.{name}"] for name in ("centre", "narrow", "ends", "beyond"))
    line = xp.line(extent)
    matrix = _cubic(xp, abs(line - centre) * narrow, *arrays[f"{prefix}cubic"])
    matrix = xp.where((line >= ends[0]) & (line <= ends[1]), matrix, 0.0)
    for side in (0, 1):
        matrix += (line == ends[side]) * beyond[side]
    matrix = matrix / matrix.sum(-1)[..., None]
    if prefix + "blurred" not in arrays:
        return matrix
    index, taps = arrays[prefix + "blurred"], arrays[prefix + "taps"]
    blur = taps[:, xp.integers(arrays[f"mirror.{group}"])].sum(1)  # [n, size, size]
    flat = matrix.reshape(-1, *matrix.shape[2:])
    flat[index] = blur @ flat[index]
    return flat.reshape(matrix.shape)


def _cubic(xp: ArrayLibrary, x: Any, a: Any, a2: Any, a3: Any) -> Any:
    """The cubic convolution kernel (Keys 1981) with free parameter a; ``a2`` is a + 2, ``a3`` is a + 3."""
    near = (a2 * x - a3) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return xp.where(x <= 1, near, xp.where(x < 2, far, 0.0))
