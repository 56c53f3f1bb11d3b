"""Crops one by one with OpenCV: the fast way on a CPU for photographs.

Every step works on uint8; the last one, a table look-up, writes solarised and normalised float32 straight into the
batch. Crops that are reduced much are resampled with PyTorch's antialiased cubic, for uint8 a vectorised fixed-point
kernel that gives Pillow's values: OpenCV has nothing that smooths by the right amount at any reduction (``crop_plan``,
``smoothed``).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels
from dinomill.images.crop_plan import CropPlan, blur_taps, luma_weights, smoothed

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


@dataclass(frozen=True)
class Operations:
    """A plan as OpenCV takes it, worked out for the whole batch at once; lists are read faster than arrays."""

    boxes: list[list[list[int]]]  # [V][B] top, left, height, width
    flip: list[list[bool]]
    smooth: list[list[bool]]
    taps: list[list[npt.NDArray[np.float32] | None]]  # [V][B] of the blur, as many as matter; None: no blur
    colour: npt.NDArray[np.float64]  # [V, B, C, C + 1], the last column for a mean of 1
    coloured: list[list[bool]]
    solarise: list[list[bool]]


def operations(plan: CropPlan, size: int, kernel: int) -> Operations:
    """Prepare a plan.

    Args:
        plan: Of views of one size.
        size: That size, pixels.
        kernel: Width of the blur's kernel.
    """
    shift = np.broadcast_to(plan.mean_share[..., None, None], (*plan.matrix.shape[:3], 1))
    return Operations(
        boxes=plan.boxes.tolist(),
        flip=plan.flip.tolist(),
        smooth=smoothed(plan.boxes, size).tolist(),
        taps=[[_that_matter(taps) for taps in view] for view in blur_taps(plan.sigma, kernel).astype(np.float32)],
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

    channels = image.shape[2]
    luma, desk = luma_weights(channels), _desk(size, channels)
    for view, target in enumerate(out):
        top, left, height, width = todo.boxes[view][column]
        crop: Any = image[top : top + height, left : left + width]
        if todo.smooth[view][column]:
            crop = _reduced(crop, size)
        elif height != size or width != size:
            crop = cv2.resize(crop, (size, size), dst=desk.next(), interpolation=cv2.INTER_CUBIC)
        if todo.flip[view][column]:
            crop = cv2.flip(crop, 1, dst=desk.next())
        taps = todo.taps[view][column]
        if taps is not None:
            crop = cv2.sepFilter2D(crop, -1, taps, taps, dst=desk.next())
        if todo.coloured[view][column]:
            mean = cv2.mean(crop[::4] if size >= _STRIDE_FROM else crop)
            colour = todo.colour[view, column]
            colour[:, -1] *= luma @ mean[:channels]
            crop = cv2.transform(crop, colour, dst=desk.next())
        table = tables[1] if todo.solarise[view][column] else tables[0]
        planes = cv2.split(crop, desk.planes) if channels > 1 else (crop,)
        for channel, plane in enumerate(planes):
            cv2.LUT(plane, table[channel], dst=target[channel])


class _Desk:
    """Memory that a thread's crops of one size are worked in: new pages cost as much as an operation on them."""

    def __init__(self, size: int, channels: int) -> None:
        self.crops = [np.empty((size, size, channels), np.uint8) for _ in range(2)]
        self.planes = [np.empty((size, size), np.uint8) for _ in range(channels)]

    def next(self) -> Pixels:
        """Memory for an operation's result; what the operation before gave lies in the other half."""
        self.crops.reverse()
        return self.crops[0]


class _Desks(threading.local):
    def __init__(self) -> None:
        self.by_shape: dict[tuple[int, int], _Desk] = {}


_desks = _Desks()


def _desk(size: int, channels: int) -> _Desk:
    """This thread's."""
    if (size, channels) not in _desks.by_shape:
        _desks.by_shape[size, channels] = _Desk(size, channels)
    return _desks.by_shape[size, channels]


def supports(channels: int) -> bool:
    """Whether images of that many channels can be rendered here."""
    return channels <= _MAX_CHANNELS


def _reduced(crop: Pixels, size: int) -> Pixels:
    """``[H, W, C]`` to ``[size, size, C]``, cubic, each pixel from as many as it stands for."""
    import torch

    # The kernel is fast where it knows channels last: by the strides of all four axes, that of one image included.
    one = torch.from_numpy(np.array(crop, order="C").reshape(1, *crop.shape)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(one, (size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1)[0].numpy())


def _that_matter(taps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Taps without the zeros on both sides; None when one is left."""
    reach = int(np.count_nonzero(taps)) // 2
    middle = len(taps) // 2
    return taps[middle - reach : middle + reach + 1] if reach else None
