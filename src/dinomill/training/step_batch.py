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
        """[2B, C, A, A] the global crops with more pixels, while an anchor or a teacher sees them."""

    @property
    def taught_classes(self) -> Tensor | None:
        """[2B, D] a teacher's class features of the global crops, where they were kept."""

    @property
    def taught_patches(self) -> Tensor | None:
        """[2B, N, D] its patches, on its own grid."""
