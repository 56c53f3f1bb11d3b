"""How closely an export repeats the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinomill.export.program import Program, least_patches
from dinomill.models.backbones import Backbone

Outputs = tuple[Tensor, ...]  # cls_token [B, D], patch_tokens [B, N, D] and, of a program, embedding [B, E]
Run = Callable[[Tensor], Outputs]


class Compared(NamedTuple):
    """The largest absolute difference of any number, and the smallest cosine of any vector."""

    difference: float
    cosine: float


@torch.no_grad()
def compare(model: Backbone, run: Run, side: int, *, any_size: bool) -> Compared:
    """How closely all outputs are repeated, on random images.

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
                return Compared(float("inf"), 0.0)
            difference = max(difference, float((expected - actual).abs().max()))
            cosine = min(cosine, float(nn.functional.cosine_similarity(expected, actual, dim=-1).min()))
    return Compared(difference, cosine)


def _batches(model: Backbone, side: int, *, any_size: bool) -> list[Tensor]:
    """A batch of one, one of three, and a smaller and wider one."""
    patch, channels = model.patch_size, model.config.in_channels
    shapes = [(1, side, side), (3, side, side)]
    if any_size:
        wide = (side // patch + 1) * patch
        shapes.append((2, max(wide - 2 * patch, least_patches(model) * patch), wide))
    return [torch.randn(count, channels, height, width) for count, height, width in shapes]
