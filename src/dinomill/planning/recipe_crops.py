"""Pretraining's crops: what two views of an image have in common is what the features will keep."""

from __future__ import annotations

from typing import Any

from dinomill.planning.choices import Choice, Choices, Wish
from dinomill.planning.pool import Pool
from dinomill.planning.shape import SMALL_SIDE, Shape


def crops(wish: Wish, pool: Pool, shape: Shape) -> Choices:
    """How the views of an image are cut in pretraining, and what is done to their colours."""
    small = shape.image_size < SMALL_SIDE
    floor = (shape.local_size / 2 / max(pool.short_side.median, 1)) ** 2
    least = round(min(max(0.08 if shape.tiny else 0.05, floor), 0.25), 3)
    values: dict[str, tuple[Any, str]] = {
        "global_size": (shape.image_size, _crop_reason(wish, pool, shape)),
        "local_size": (shape.local_size, "half of it or a little less, in whole patches"),
        "local_crops": (shape.local_crops, "the paper's eight" if shape.local_crops == 8 else "half of the paper's"),
    }
    if shape.aligned:
        why = f"aligned (images correlate by {pool.alignment:.2f}): milder crops keep where things are"
        values |= {
            "global_scale": ([0.9, 1.0], f"share of the area; {why}"),
            "local_scale": ([0.15, 0.6], "as above"),
            "aspect": ([0.9, 1.11], "as above: hardly stretched"),
        }
    elif wish.start is not None:
        why = f"not aligned (images correlate by {pool.alignment:.2f}), and milder than for random weights"
        values |= {
            "global_scale": ([0.4, 1.0], f"share of the area; {why}"),
            "local_scale": ([max(least, 0.1), 0.4], "as above"),
            "aspect": ([0.75, 1.3333], "width over height, the paper's"),
        }
    else:
        why = f"not aligned (images correlate by {pool.alignment:.2f}): the paper's crops"
        values |= {
            "global_scale": ([0.3 if shape.tiny else 0.32, 1.0], f"share of the area; {why}"),
            "local_scale": ([least, 0.35], f"no less, or a crop of {shape.local_size} pixels would show a blur"),
            "aspect": ([0.75, 1.3333], "width over height, the paper's"),
        }
    if small or wish.start is not None:
        values["blur"] = ([0, 0, 0], f"none: at {shape.image_size} pixels it takes away what is there")
        values["solarise"] = (0, "none: gains nothing at these sizes")
    else:
        kernel = 9 if shape.image_size >= 160 else 5
        values["blur"] = ("official", "as the released weights were trained: 0, 0.9, 0.5")
        values["blur_kernel"] = (kernel, f"pixels; the paper's 9 are for 224, this is {shape.image_size}")
        values["blur_sigma"] = ([0.1, 2.0 if kernel == 9 else 1.0], "as above")
        values["solarise"] = (
            0.2 if shape.channels == 3 else 0,
            "the paper's" if shape.channels == 3 else "none on grey",
        )
    return {f"crops.{key}": Choice(*pair) for key, pair in values.items()}


def _crop_reason(wish: Wish, pool: Pool, shape: Shape) -> str:
    if wish.start is None:
        return "pixels a side, the model's image size"
    if shape.image_size > pool.short_side.median:
        return f"pixels, more than the images' {pool.short_side.median:.0f}: the weights know no coarser grid"
    return f"pixels, {shape.grid} patches a side: what this machine can afford of the weights' {wish.start.image_size}"
