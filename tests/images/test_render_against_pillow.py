"""Crops beside Pillow's antialiased bicubic, the resampling that the official recipe trains with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from dinomill.images.canvases import Canvas
from dinomill.images.crop_plan import CropPlan
from dinomill.images.render_batched import prepare, render
from dinomill.images.render_opencv import normalisation_tables, operations, render_image

Array = np.ndarray[Any, Any]
# Of 255, mean over a crop. Asked for are 3; a plain cubic that reduces is 3 to 20 away, averages of areas are 2 to 3.
SMOOTHED, PLAIN = 0.5, 2.2
REDUCTIONS = (1.0, 1.05, 1.1, 1.12, 1.2, 1.4, 1.45, 1.7, 1.99, 2.0, 2.4, 2.9, 3.5, 4.0, 5.6, 8.0)
MEAN, STD = (0.5,) * 3, (0.25,) * 3


def pink_noise(side: int) -> Array:
    """Colour noise whose amplitude falls with 1/f, as that of photographs does, ``[side, side, 3]`` uint8."""
    random = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(random.standard_normal((3, side, side))) / frequency
    values = np.fft.ifft2(spectrum).real.transpose(1, 2, 0)
    values = (values - values.mean()) / values.std() * 50 + 127.5
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def boxes_only(boxes: Array) -> CropPlan:
    """A plan that cuts and resizes: boxes ``[V, 1, 4]``."""
    shape = boxes.shape[:2]
    never, zero = np.zeros(shape, np.bool_), np.zeros(shape)
    return CropPlan(boxes, never, np.broadcast_to(np.eye(3), (*shape, 3, 3)), zero, never, zero, never)


def crops_of(image: Array, boxes: list[tuple[int, int, int, int]], size: int, backend: str) -> Array:
    """``[V, size, size, 3]`` in units of 8-bit values."""
    plan = boxes_only(np.array(boxes, dtype=np.int64)[:, None])
    if backend == "opencv":
        out = np.empty((len(boxes), 1, 3, size, size), np.float32)
        tables = normalisation_tables(MEAN, STD, 128)
        render_image(image, operations(plan, size, 9), 0, size, out[:, 0], tables)
    else:
        groups = ((0, len(boxes), size), (len(boxes), len(boxes), size))
        outline, arrays = prepare([image], plan, groups, MEAN, STD, kernel=9, threshold=128)
        out = render({name: a.array() if isinstance(a, Canvas) else a for name, a in arrays.items()}, outline)[0]
    return (out[:, 0].transpose(0, 2, 3, 1) * 0.25 + 0.5) * 255


def pillow(image: Array, box: tuple[int, int, int, int], size: int) -> Array:
    top, left, height, width = box
    cut = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC)).astype(float)


@pytest.fixture(scope="module", params=["noise", "photograph"])
def image(request: pytest.FixtureRequest) -> Array:
    if request.param == "noise":
        return pink_noise(820)
    return np.asarray(data.hubble_deep_field()[:820, :820])


@pytest.mark.parametrize("backend", ["opencv", "batched"])
@pytest.mark.parametrize("size", [98, 224])
def test_no_crop_is_blurred_or_aliased(image: Array, backend: str, size: int) -> None:
    # Square, wide and tall, from places that no grid of two or four pixels divides.
    sides = [round(size * reduction) for reduction in REDUCTIONS]
    boxes = [(5, 7, side, side) for side in sides] + [(3, 11, side, round(side * 0.8)) for side in sides]
    boxes = [box for box in boxes if box[0] + box[2] <= len(image) and box[1] + box[3] <= len(image)]
    assert len(boxes) >= 24
    for box, crop in zip(boxes, crops_of(image, boxes, size, backend), strict=True):
        distance = np.abs(crop - pillow(image, box, size)).mean()
        limit = SMOOTHED if max(box[2:]) > 1.1 * size else PLAIN
        assert distance <= limit, f"{box} at {size}: {distance:.2f} of 255"


def test_backends_differ_by_rounding_at_any_reduction(image: Array) -> None:
    sides = [round(98 * reduction) for reduction in (0.6, *REDUCTIONS)]
    boxes = [(5, 7, side, side) for side in sides] + [(3, 11, side, round(side * 0.75)) for side in sides]
    one, two = (crops_of(image, boxes, 98, backend) for backend in ("opencv", "batched"))
    assert np.abs(one - two).mean(axis=(1, 2, 3)).max() < 0.5  # 8 bits are .25 from the numbers behind them
