"""Position tables for code that resizes them in another way than the model does."""

from __future__ import annotations

import torch

from dinomill.models.position import resize_positions
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.models.weights import from_tensors


def resizes_alike(model: VisionTransformer, *, offset: float, antialias: bool) -> bool:
    """Whether other code, which resizes so, gives the model's positions at every size of image."""
    config = model.config
    return model.pos_embed is None or (config.interpolate_offset, config.interpolate_antialias) == (offset, antialias)


def with_table_for(model: VisionTransformer, side: int, *, offset: float, antialias: bool) -> VisionTransformer:
    """The same model with a table for images of `side` pixels, where other code would resize it in another way.

    Args:
        model: The original; it is given back where that code resizes alike.
        side: Pixels, a whole number of patches.
        offset: What that code adds to a grid's side.
        antialias: Whether it smooths a table that it makes smaller.
    """
    if resizes_alike(model, offset=offset, antialias=antialias):
        return model
    assert model.pos_embed is not None
    told = model.config
    update = {"image_size": side, "interpolate_offset": offset, "interpolate_antialias": antialias}
    config = told.model_copy(update=update)
    table = resize_positions(
        model.pos_embed[0, 1:].detach(),
        (config.grid, config.grid),
        offset=told.interpolate_offset,
        antialias=told.interpolate_antialias,
    )
    tensors = dict(model.state_dict())
    tensors["pos_embed"] = torch.cat([model.pos_embed[:, :1].detach(), table[None]], dim=1)
    return from_tensors(config, tensors, where="the exported model")
