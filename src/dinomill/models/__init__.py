"""Vision transformers, projection heads, and their weights on disk."""

from __future__ import annotations

from dinomill.models.attention import Sequences
from dinomill.models.config import VARIANTS, HeadConfig, VisionTransformerConfig, variant
from dinomill.models.heads import ProjectionHead
from dinomill.models.loading import load
from dinomill.models.stochastic_depth import DropPath, Subset, draw_drop_path
from dinomill.models.vision_transformer import VisionTransformer, build
from dinomill.models.weights import load_backbone, load_official, read_config, save_backbone

__all__ = [
    "VARIANTS",
    "DropPath",
    "HeadConfig",
    "ProjectionHead",
    "Sequences",
    "Subset",
    "VisionTransformer",
    "VisionTransformerConfig",
    "build",
    "draw_drop_path",
    "load",
    "load_backbone",
    "load_official",
    "read_config",
    "save_backbone",
    "variant",
]
