"""What a training step reads of a batch, whoever made it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class StepBatch(Protocol):
    """What a step reads of a batch; all tensors on the module's device."""

    @property
    def global_crops(self) -> Tensor:
        """[2B, C, H, W], crop-major."""

    @property
    def local_crops(self) -> Tensor:
        """[nB, C, h, w], crop-major."""

    @property
    def masks(self) -> Tensor:
        """[2B, N] bool."""

    @property
    def mask_indices(self) -> Tensor:
        """[M] int64 into the flattened [2B·N]."""

    @property
    def mask_weights(self) -> Tensor:
        """[M] fp32."""

    @property
    def anchor_crops(self) -> Tensor | None:
        """[2B, C, A, A] the global crops with more pixels, while an anchor sees them."""
