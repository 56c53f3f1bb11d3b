"""Where the class token looks: attention of the last block, as maps over the image (Caron et al. 2021, figure 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dinomill.models.layers import Block
from dinomill.models.vision_transformer import VisionTransformer


@torch.no_grad()
def class_attention(model: VisionTransformer, x: Tensor) -> Tensor:
    """How much each head of the last block takes from every patch for the class token.

    Args:
        model: In evaluation mode.
        x: ``[B, C, H, W]``.

    Returns:
        ``[B, heads, H / p, W / p]``. What goes to the class token itself and to registers is left out: a map's sum is
        the share that goes to patches.
    """
    seen: list[tuple[Any, ...]] = []
    last = model.blocks[-1]
    assert isinstance(last, Block)
    attention = last.attn
    hook = attention.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    try:
        model.forward_features(x)
    finally:
        hook.remove()
    tokens, layout, turns = seen[0]
    weights = attention.of_class_tokens(tokens, layout[0], turns[0])
    rows, columns = (side // model.patch_size for side in x.shape[-2:])
    patches = weights[:, :, 1 + model.num_register_tokens :]
    return patches.reshape(*patches.shape[:2], rows, columns)
