"""Crops of a whole batch at once, as matrix products: the fast way on a GPU, and on a CPU for tiny images.

Cropping, flipping, cubic resampling and Gaussian blur are all linear and separable, so a crop is R·X·Cᵀ with one small
matrix for the rows and one for the columns, built from the drawn plan. The same code runs on numpy arrays and on torch
tensors of any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.images.crops import CropPlan, luma_weights

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_A = -0.75  # the cubic's free parameter: OpenCV's and PyTorch's


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
    views, batch = plan.flip.shape
    _, height, channels, width = images.shape
    put = _putter(images)
    rows = _resampling(
        plan.boxes[..., 0], plan.boxes[..., 2], np.zeros_like(plan.flip), plan.sigma, size, height, kernel
    )
    columns = _resampling(plan.boxes[..., 1], plan.boxes[..., 3], plan.flip, plan.sigma, size, width, kernel)
    # [B, V·S, H] × [B, H, C·W]: one product an image for all of its views.
    tall = put(rows.transpose(1, 0, 2, 3).reshape(batch, views * size, height))
    x = tall @ _to_float(images).reshape(batch, height, channels * width)
    x = x.reshape(batch, views, size * channels, width) @ put(columns.transpose(1, 0, 3, 2))
    x = x.reshape(batch, views, size, channels, size)
    x = _permute(x, (1, 0, 3, 2, 4)).reshape(views, batch, channels, size * size)
    # Backends agree better when both see 8-bit values where the other one has them.
    x = x.clip(0, 255)
    x = _colour(x, plan, put, channels)
    x = _solarise(x, plan, put, threshold)
    scale = (1 / (255 * np.array(std, dtype=np.float32)))[:, None]
    shift = (np.array(mean, dtype=np.float32) / np.array(std, dtype=np.float32))[:, None]
    x *= put(scale)
    x -= put(shift)
    return x.reshape(views, batch, channels, size, size)


def _colour(x: Any, plan: CropPlan, put: Any, channels: int) -> Any:
    if not plan.coloured.any():
        return x
    luma = put(luma_weights(channels).astype(np.float32))
    mean = (x.mean(-1) * luma).sum(-1)[..., None, None]
    offset = mean * put(plan.mean_share.astype(np.float32))[..., None, None]
    if channels == 3:
        x = put(plan.matrix.astype(np.float32)) @ x
    else:
        x *= put(plan.matrix[..., :1, :1].astype(np.float32))
    x += offset
    return x.clip(0, 255)


def _solarise(x: Any, plan: CropPlan, put: Any, threshold: int) -> Any:
    chosen = np.flatnonzero(plan.solarise)
    if not len(chosen):
        return x
    flat = x.reshape(-1, *x.shape[2:])
    index = chosen if isinstance(x, np.ndarray) else put(chosen)
    picked = flat[index]
    above = picked >= threshold
    flat[index] = picked * ~above + (255 - picked) * above
    return flat.reshape(x.shape)


def _resampling(
    start: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    flip: npt.NDArray[np.bool_],
    sigma: npt.NDArray[np.float64],
    size: int,
    extent: int,
    kernel: int,
) -> Floats:
    """Matrices ``[V, B, size, extent]``: output pixel ← image pixels along one axis, for crop, flip, cubic and blur.

    Reducing widens the cubic by the reduction, which smooths. Pixels beyond the crop's edge repeat the edge's.
    """
    start_, length_ = start[..., None].astype(np.float32), length[..., None].astype(np.float32)
    ratio = length_ / size
    stretch = np.maximum(ratio, 1)
    out = np.arange(size, dtype=np.float32)
    out = np.where(flip[..., None], size - 1 - out, out)
    centre = start_ + (out + 0.5) * ratio - 0.5  # [V, B, S]
    taps = int(np.ceil(4 * stretch.max()))
    first = np.floor(centre - 2 * stretch).astype(np.int64) + 1  # [V, B, S]
    position = first[..., None] + np.arange(taps)  # [V, B, S, taps]
    weight = _cubic((position - centre[..., None]) / stretch[..., None])
    weight /= weight.sum(-1, keepdims=True)
    last = (start + length - 1)[..., None, None]
    position = np.clip(position, start[..., None, None], last)
    matrix = np.zeros((start.size * size, extent), dtype=np.float32)
    line = np.arange(start.size * size)
    for tap in range(taps):  # several taps may fall on the same edge pixel, one tap never on two
        matrix[line, position[..., tap].ravel()] += weight[..., tap].ravel()
    matrix = matrix.reshape(*start.shape, size, extent)
    blurred = sigma > 0
    if blurred.any():
        matrix[blurred] = _blur(sigma[blurred], size, kernel) @ matrix[blurred]
    return matrix


def _cubic(x: Floats) -> Floats:
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = _A * (((x - 5) * x + 8) * x - 4)
    weights: Floats = np.where(x <= 1, near, np.where(x < 2, far, 0)).astype(np.float32)
    return weights


def _blur(sigma: npt.NDArray[np.float64], size: int, kernel: int) -> Floats:
    """Gaussian smoothing as matrices ``[n, size, size]``, mirrored at the borders without repeating the edge."""
    radius = kernel // 2
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    taps /= taps.sum(1, keepdims=True)
    matrix = np.zeros((len(sigma), size, size), dtype=np.float32)
    line = np.arange(size)
    for k, offset in enumerate(offsets):
        column = np.abs(line + offset)
        column = np.where(column > size - 1, 2 * (size - 1) - column, column)
        matrix[:, line, column] += taps[:, k, None]
    return matrix


def _putter(images: Any) -> Any:
    """A function that brings small numpy arrays to where the images are."""
    if isinstance(images, np.ndarray):
        return lambda array: array
    import torch

    device = images.device

    def put(array: npt.NDArray[Any]) -> Any:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    return put


def _to_float(images: Any) -> Any:
    return images.astype(np.float32) if isinstance(images, np.ndarray) else images.float()


def _permute(x: Any, order: tuple[int, ...]) -> Any:
    return x.transpose(order) if isinstance(x, np.ndarray) else x.permute(order)
