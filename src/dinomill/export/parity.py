"""How closely an export repeats the model that it was made from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinomill.export.base import Run
from dinomill.export.program import Program, least_patches
from dinomill.models.backbones import Backbone


@torch.no_grad()
def compare(model: Backbone, run: Run, side: int, *, any_size: bool) -> tuple[float, float]:
    """The largest absolute difference of any output, and the smallest cosine of any token, on random images.

    Args:
        model: The original.
        run: The export, which may give fewer outputs.
        side: Pixels of the images that it is used with.
        any_size: Whether images of other sides and shapes are tried, too.
    """
    program = Program(model).eval()
    difference, cosine = 0.0, 1.0
    for batch in _batches(model, side, any_size=any_size):
        found = run(batch)
        for expected, actual in zip(program(batch)[: len(found)], found, strict=True):
            if expected.shape != actual.shape or not bool(actual.isfinite().all()):
                return float("inf"), 0.0
            difference = max(difference, float((expected - actual).abs().max()))
            cosine = min(cosine, float(nn.functional.cosine_similarity(expected, actual, dim=-1).min()))
    return difference, cosine


def _batches(model: Backbone, side: int, *, any_size: bool) -> list[Tensor]:
    """A batch of one, one of three, and a smaller and wider one."""
    patch, channels = model.patch_size, model.config.in_channels
    shapes = [(1, side, side), (3, side, side)]
    if any_size:
        wide = (side // patch + 1) * patch
        shapes.append((2, max(wide - 2 * patch, least_patches(model) * patch), wide))
    return [torch.randn(count, channels, height, width) for count, height, width in shapes]
