"""Backbones of any family: made from a configuration, as a configuration says its family by ``kind``."""

from __future__ import annotations

from dinomill.models.config import VisionTransformerConfig
from dinomill.models.convnext import ConvNeXt
from dinomill.models.kinds import ModelConfig
from dinomill.models.vision_transformer import VisionTransformer

# What is trained and exported here: images in, ``x_norm_clstoken`` and ``x_norm_patchtokens`` out.
Backbone = VisionTransformer | ConvNeXt
BACKBONES = (VisionTransformer, ConvNeXt)


def new_backbone(config: ModelConfig) -> Backbone:
    """A freshly initialised backbone."""
    return VisionTransformer(config) if isinstance(config, VisionTransformerConfig) else ConvNeXt(config)
