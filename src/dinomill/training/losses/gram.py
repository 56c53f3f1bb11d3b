"""Gram anchoring: keeps the similarities between patches as an earlier teacher had them.

Siméoni et al., "DINOv3", 2025, section 4: dense features decay on long runs; matching the Gram matrix of patch
features against an earlier, sharper teacher repairs them without binding the features themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss, normalize

from dinomill.models.hardware import autocast
from dinomill.models.student import StudentBackbone
from dinomill.training.step_batch import StepBatch


def gram_loss(patches: Tensor, anchor: Tensor) -> Tensor:
    """Mean squared difference of patch similarities.

    Args:
        patches: [B, N, D] student patch features.
        anchor: [B, N, D'] patch features of the anchor teacher on the same grid; D' may differ.

    Returns:
        A scalar, in fp32.
    """
    with autocast(patches.device):
        return mse_loss(_gram(patches.float()), _gram(anchor.float()))


@torch.no_grad()
def anchor_patches(anchor: StudentBackbone, batch: StepBatch, *, enlarge: int) -> Tensor:
    """[2B, N, D] patches of the anchor teacher, which sees the boxes of the global crops with more pixels.

    Args:
        anchor: The teacher of an earlier step.
        batch: Its crops, and those that the loader rendered for the anchor.
        enlarge: By how much; 1: the anchor sees the global crops themselves.
    """
    crops = batch.global_crops if enlarge == 1 else batch.anchor_crops
    assert crops is not None, "the loader renders the anchor's crops from the start of the loss on"
    _, patches, grid = anchor.features([crops])[0]
    side = anchor.patch_size
    target = (batch.global_crops.shape[-2] // side, batch.global_crops.shape[-1] // side)
    return resize_patches(patches, grid=grid, target=target)


def resize_patches(patches: Tensor, *, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bring patch features from one grid to another, bicubic: [B, H·W, D] → [B, h·w, D], in fp32."""
    if grid == target:
        return patches
    maps = patches.float().mT.reshape(patches.shape[0], -1, *grid)
    return interpolate(maps, size=target, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


def _gram(x: Tensor) -> Tensor:
    x = normalize(x, dim=-1)
    return x @ x.transpose(1, 2)
