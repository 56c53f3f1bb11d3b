"""A vision transformer as training sees it (``StudentBackbone``): all crops in one packed pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dinomill.models.config import Pooling
from dinomill.models.stochastic_depth import draw_drop_path
from dinomill.models.student import CropFeatures

if TYPE_CHECKING:
    from dinomill.models.vision_transformer import VisionTransformer

# Chunked checkpoints nest `blocks.<chunk>.<block>`; the block's number is the last one either way.
_BLOCK = re.compile(r"(?:^|\.)blocks\.(?:\d+\.)*?(\d+)\.(?=\D)")
_FIRST_LAYER = ("pos_embed", "patch_embed", "mask_token", "cls_token", "register_tokens")


class TrainedTransformer:
    """The methods that training calls; a part of ``VisionTransformer``."""

    @property
    def pooling(self: VisionTransformer) -> Pooling:  # type: ignore[misc]
        """What its embedding is."""
        return self.config.pooling

    def units(self: VisionTransformer) -> Sequence[nn.Module]:  # type: ignore[misc]
        """The blocks."""
        return list(self.blocks)

    def layer_of(self: VisionTransformer, parameter: str) -> int:  # type: ignore[misc]
        """Of a parameter: 0 of tokens and patch embedding, i + 1 of block i, ``n_blocks + 1`` of what follows."""
        return layer_of(parameter, self.n_blocks)

    def untrained(self: VisionTransformer, *, masks: bool, local_crops: bool) -> Iterator[nn.Parameter]:  # type: ignore[misc]
        """The mask token where nothing is masked, the norm for local crops where there are none."""
        if not masks:
            yield self.mask_token
        if not local_crops and self.local_cls_norm is not None:
            yield from self.local_cls_norm.parameters()

    def features(  # type: ignore[misc]
        self: VisionTransformer,
        crops: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        patch_indices: Sequence[Tensor | None] | None = None,
        drop_path: float = 0.0,
        generator: torch.Generator | None = None,
        recomputed: float = 0.0,
    ) -> list[CropFeatures]:
        """See ``StudentBackbone.features``."""
        layout = self.layout([(crop.shape[0], crop.shape[-2], crop.shape[-1]) for crop in crops])
        drawn = draw_drop_path(layout, self.n_blocks, drop_path, generator=generator, device=crops[0].device)
        count = round(recomputed * self.n_blocks)
        outputs = self.forward_packed(
            crops,
            masks,
            patch_indices=patch_indices,
            drop_path=drawn,
            rope_scales=[self.draw_rope_scale(generator) for _ in crops] if self.training else None,
            checkpoint=[index < count for index in range(self.n_blocks)],
        )
        return [
            CropFeatures(output["x_norm_clstoken"], output["x_norm_patchtokens"], self._grid(crop))
            for output, crop in zip(outputs, crops, strict=True)
        ]


def layer_of(parameter: str, depth: int) -> int:
    """The layer of a vision transformer's parameter, by its plain name in a backbone of so many blocks."""
    block = _BLOCK.search(parameter)
    if block is not None:
        return int(block.group(1)) + 1
    return 0 if parameter.startswith(_FIRST_LAYER) else depth + 1
