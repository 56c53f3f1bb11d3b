"""Position tables for code that resizes them in another way than the model does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

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


class Deviation(NamedTuple):
    """What other code's way of resizing a table costs."""

    pixels: int  # the side of the images
    cosine: float  # the smallest of the class tokens of some random ones

    def __str__(self) -> str:
        return (
            f"a cosine of {self.cosine:.4f} with the original's class tokens for random images of {self.pixels} pixels"
        )


@torch.no_grad()
def deviation(model: VisionTransformer, fitted: VisionTransformer, side: int) -> Deviation | None:
    """How far other code, which resizes in its own way, is from the model at images that are a quarter larger.

    Args:
        model: The original.
        fitted: As ``with_table_for`` gives it: it resizes as that code does.
        side: Pixels, with which both are the same.

    Returns:
        None where they are the same at every size.
    """
    if fitted is model:
        return None
    patch = model.patch_size
    larger = max(round(side * 1.25 / patch), side // patch + 1) * patch
    # Smooth ones: in white noise every patch is like the next, and its place counts more than in a photograph.
    coarse = torch.randn(4, model.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(coarse, size=(larger, larger), mode="bicubic")
    own, other = (network.forward_features(images)["x_norm_clstoken"] for network in (model, fitted))
    return Deviation(larger, float(nn.functional.cosine_similarity(own, other, dim=-1).min()))
