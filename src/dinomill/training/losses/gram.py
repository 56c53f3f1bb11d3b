"""Gram anchoring: keeps the similarities between patches as an earlier teacher had them.

Siméoni et al., "DINOv3", 2025, section 4: dense features decay on long runs; matching the Gram matrix of patch
features against an earlier, sharper teacher repairs them without binding the features themselves.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate, mse_loss, normalize

from dinomill.models.hardware import autocast


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


def resize_patches(patches: Tensor, *, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bring patch features from one grid to another, bicubic: [B, H·W, D] → [B, h·w, D], in fp32."""
    if grid == target:
        return patches
    maps = patches.float().mT.reshape(patches.shape[0], -1, *grid)
    return interpolate(maps, size=target, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


def _gram(x: Tensor) -> Tensor:
    x = normalize(x, dim=-1)
    return x @ x.transpose(1, 2)
