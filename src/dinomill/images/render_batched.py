"""Crops of a whole batch at once, as matrix products: the fast way on a GPU, and on a CPU for tiny images.

Cropping, flipping, cubic resampling and Gaussian blur are all linear and separable, so a crop is R·X·Cᵀ with one small
matrix for the rows and one for the columns. The matrices are built where the images are, from the few numbers of the
drawn plan. The same code runs on numpy arrays and on torch tensors of any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.images.array_library import ArrayLibrary, library_of
from dinomill.images.crop_plan import CropPlan, blur_taps, luma_weights, smoothed

Pixels = npt.NDArray[np.uint8]
_PLAIN, _SMOOTHED = -0.75, -0.5  # the cubic's free parameter: OpenCV's; Pillow's


def canvas(images: Sequence[Pixels]) -> Pixels:
    """Stack images as ``[B, H, C, W]``, padded below and to the right to the largest."""
    height, width = max(i.shape[0] for i in images), max(i.shape[1] for i in images)
    stacked = np.zeros((len(images), height, images[0].shape[2], width), dtype=np.uint8)
    for row, image in zip(stacked, images, strict=True):
        row[: image.shape[0], :, : image.shape[1]] = image.transpose(0, 2, 1)
    return stacked


def render_batch(
    images: Any,
    plan: CropPlan,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    kernel: int,
    threshold: int,
) -> Any:
    """Render views of one size.

    Args:
        images: ``[B, H, C, W]`` uint8 from ``canvas``: a numpy array, or a torch tensor on any device.
        plan: Of those views; boxes in the images' pixels.
        size: Side of the crops, pixels.
        mean: Per channel, in [0, 1].
        std: Per channel, in [0, 1].
        kernel: Width of the blur's kernel.
        threshold: Solarisation inverts values from here on.

    Returns:
        ``[V, B, C, size, size]`` float32, of the images' library and device.
    """
    xp = library_of(images)
    views, batch = plan.flip.shape
    _, height, channels, width = images.shape
    if not views:  # a recipe without local crops
        return xp.floats(images[:0]).reshape(0, batch, channels, size, size)
    never, smooth = np.zeros_like(plan.flip), smoothed(plan.boxes, size)
    rows = _resampling(xp, plan.boxes[..., 0::2], smooth, never, plan.sigma, size, height, kernel)
    columns = _resampling(xp, plan.boxes[..., 1::2], smooth, plan.flip, plan.sigma, size, width, kernel)
    # [B, V·S, H] × [B, H, C·W]: one product an image for all of its views.
    tall = xp.permute(rows, (1, 0, 2, 3)).reshape(batch, views * size, height)
    x = tall @ xp.floats(images).reshape(batch, height, channels * width)
    x = x.reshape(batch, views, size * channels, width) @ xp.permute(columns, (1, 0, 3, 2))
    x = x.reshape(batch, views, size, channels, size)
    x = xp.permute(x, (1, 0, 3, 2, 4)).reshape(views, batch, channels, size * size)
    x = _colour(xp, x.clip(0, 255), plan, channels)
    x = _solarise(xp, x, plan, threshold)
    deviation = np.array(std)
    x *= xp.put((1 / (255 * deviation))[:, None])
    x -= xp.put((np.array(mean) / deviation)[:, None])
    return x.reshape(views, batch, channels, size, size)


def _colour(xp: ArrayLibrary, x: Any, plan: CropPlan, channels: int) -> Any:
    if not plan.coloured.any():
        return x
    mean = (x.mean(-1) * xp.put(luma_weights(channels))).sum(-1)[..., None, None]
    offset = mean * xp.put(plan.mean_share)[..., None, None]
    if channels == 3:
        x = xp.put(plan.matrix) @ x
    else:
        x *= xp.put(plan.matrix[..., :1, :1])
    x += offset
    return x.clip(0, 255)


def _solarise(xp: ArrayLibrary, x: Any, plan: CropPlan, threshold: int) -> Any:
    chosen = np.flatnonzero(plan.solarise)
    if not len(chosen):
        return x
    flat = x.reshape(-1, *x.shape[2:])
    index = xp.put(chosen)
    picked = flat[index]
    flat[index] = xp.where(picked >= threshold, 255 - picked, picked)
    return flat.reshape(x.shape)


def _resampling(
    xp: ArrayLibrary,
    spans: npt.NDArray[np.int64],
    smooth: npt.NDArray[np.bool_],
    flip: npt.NDArray[np.bool_],
    sigma: npt.NDArray[np.float64],
    size: int,
    extent: int,
    kernel: int,
) -> Any:
    """Matrices ``[V, B, size, extent]``: output pixel ← image pixels along one axis, for crop, flip, cubic and blur.

    Smoothing widens the cubic by the reduction. Beyond the crop's edge a widened cubic has no weight, as in Pillow, and
    the plain one meets the edge's pixels again, as in OpenCV. Spans ``[V, B, 2]`` are start and length in pixels.
    """
    start, length = spans[..., 0], spans[..., 1]
    ratio = length[..., None] / size
    stretch = np.where(smooth[..., None], np.maximum(ratio, 1), 1.0)
    out = np.where(flip[..., None], np.arange(size)[::-1], np.arange(size))
    centre = xp.put(start[..., None] + (out + 0.5) * ratio - 0.5)  # [V, B, S]
    reach = xp.put(2 * stretch)
    first = xp.floor(centre - reach) + 1
    taps = int(np.ceil(4 * stretch.max()))
    position = first[..., None] + xp.put(np.arange(taps).astype(np.float32))  # [V, B, S, taps]
    shape = xp.put(np.where(smooth, _SMOOTHED, _PLAIN)[..., None, None])
    weight = _cubic(xp, abs(position - centre[..., None]) * (2 / reach[..., None]), shape)
    edges = (xp.put(edge.astype(np.float32))[..., None, None] for edge in (start, start + length - 1))
    inside = position.clip(*edges)
    weight = xp.where(xp.put(smooth[..., None, None]) & (inside != position), weight * 0, weight)
    weight = weight / weight.sum(-1)[..., None]
    columns = xp.integers(inside).reshape(-1, taps)
    weight = weight.reshape(-1, taps)
    matrix = xp.zeros((start.size * size, extent))
    for tap in range(taps):  # several taps may fall on the same edge pixel, one tap never on two
        xp.add_to_columns(matrix, columns[:, tap], weight[:, tap])
    matrix = matrix.reshape(-1, size, extent)
    blurred = np.flatnonzero(sigma > 0)
    if len(blurred):
        index = xp.put(blurred)
        matrix[index] = _blur(xp, sigma.ravel()[blurred], size, kernel) @ matrix[index]
    return matrix.reshape(*start.shape, size, extent)


def _cubic(xp: ArrayLibrary, x: Any, a: Any) -> Any:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return xp.where(x <= 1, near, xp.where(x < 2, far, x * 0))


def _blur(xp: ArrayLibrary, sigma: npt.NDArray[np.float64], size: int, kernel: int) -> Any:
    """Gaussian smoothing as matrices ``[n, size, size]``, mirrored at the borders without repeating the edge."""
    offsets = np.arange(kernel) - kernel // 2
    weights = xp.put(blur_taps(sigma, kernel))
    matrix = xp.zeros((len(sigma), size, size))
    line = np.arange(size)
    lines = xp.put(line)
    for tap, offset in enumerate(offsets):
        column = np.abs(line + offset)
        column = np.where(column > size - 1, 2 * (size - 1) - column, column)
        matrix[:, lines, xp.put(column)] += weights[:, tap, None]
    return matrix
