"""Vision transformers, ConvNeXts, projection heads, and their weights on disk.

What is listed here is imported when it is first asked for: configurations are read at every start of Kedro, and torch
takes seconds to load.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinomill.models.attention import Sequences
    from dinomill.models.config import VARIANTS, HeadConfig, VisionTransformerConfig, variant
    from dinomill.models.convnext import ConvNeXt
    from dinomill.models.convnext_config import CONVNEXT_VARIANTS, ConvNeXtConfig, convnext_variant
    from dinomill.models.heads import ProjectionHead
    from dinomill.models.loading import load, read_weights
    from dinomill.models.stochastic_depth import DropPath, Subset, draw_drop_path
    from dinomill.models.vision_transformer import VisionTransformer, build
    from dinomill.models.weights import load_backbone, read_config, save_backbone

_HOMES = {
    "attention": ("Sequences",),
    "config": ("VARIANTS", "HeadConfig", "VisionTransformerConfig", "variant"),
    "convnext": ("ConvNeXt",),
    "convnext_config": ("CONVNEXT_VARIANTS", "ConvNeXtConfig", "convnext_variant"),
    "heads": ("ProjectionHead",),
    "loading": ("load", "read_weights"),
    "stochastic_depth": ("DropPath", "Subset", "draw_drop_path"),
    "vision_transformer": ("VisionTransformer", "build"),
    "weights": ("load_backbone", "read_config", "save_backbone"),
}

__all__ = [
    "CONVNEXT_VARIANTS",
    "VARIANTS",
    "ConvNeXt",
    "ConvNeXtConfig",
    "DropPath",
    "HeadConfig",
    "ProjectionHead",
    "Sequences",
    "Subset",
    "VisionTransformer",
    "VisionTransformerConfig",
    "build",
    "convnext_variant",
    "draw_drop_path",
    "load",
    "load_backbone",
    "read_config",
    "read_weights",
    "save_backbone",
    "variant",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"dinomill.models.{home}"), name)
    raise AttributeError(f"module 'dinomill.models' has no attribute {name!r}")
