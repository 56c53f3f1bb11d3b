"""What a vision transformer and its projection head look like, and the sizes that have a name."""

from __future__ import annotations

import difflib
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.errors import ConfigError

# The class token, the mean of the patch tokens, or both side by side; all after the final norm.
Pooling = Literal["cls", "mean_patch", "cls+mean_patch"]


class VisionTransformerConfig(Config):
    """The shape of a backbone; the defaults are ViT-S/14 as released (Oquab et al. 2023, table 17)."""

    # Never written: files and hashes of before there was another family stay what they are.
    kind: Literal["vit"] = Field(default="vit", exclude=True, description="the family; see models/kinds.py")
    image_size: int = Field(default=518, ge=1, description="side in pixels of the native grid of position embeddings")
    patch_size: int = Field(default=14, ge=1, description="side in pixels of a patch")
    in_channels: int = Field(default=3, ge=1, description="channels of an image")
    embed_dim: int = Field(default=384, ge=4, description="width of a token")
    depth: int = Field(default=12, ge=1, description="number of blocks")
    num_heads: int = Field(default=6, ge=1, description="attention heads; divides embed_dim")
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the feed-forward layer over embed_dim")
    ffn: Literal["mlp", "swiglu"] = Field(default="mlp", description="feed-forward layer: GELU MLP or SwiGLU")
    qkv_bias: Literal["full", "query_value", "none"] = Field(
        default="full", description="biases of queries, keys and values; DINOv3 has none for keys"
    )
    norm_eps: float = Field(default=1e-6, gt=0, description="epsilon of every norm; DINOv3's is 1e-5")
    cls_norm: bool = Field(
        default=False, description="the class and register tokens have a final norm of their own, beside the patches'"
    )
    local_cls_norm: bool = Field(default=False, description="and another one for local crops, used in training alone")
    registers: int = Field(default=0, ge=0, description="register tokens after the class token")
    layerscale: float | None = Field(default=1e-5, description="initial gain after each branch; null leaves it out")
    position: Literal["learned", "rope"] = Field(
        default="learned", description="a learned table, or axial rotary angles in every attention"
    )
    interpolate_offset: float = Field(
        default=0.1,
        ge=0,
        description="added to the grid's side when the table is resized; 0 resizes by size alone",
    )
    interpolate_antialias: bool = Field(default=False, description="low-pass the table when it is made smaller")
    rope_base: float = Field(default=100.0, gt=1, description="longest period of the rotary angles, in half images")
    rope_periods: Literal["exact", "bfloat16"] = Field(
        default="exact", description="the periods in fp32, or rounded to bfloat16 as DINOv3's released files hold them"
    )
    rope_rescale: float = Field(
        default=2.0,
        ge=1,
        le=4,
        description="in training, coordinates are stretched by up to this, or its inverse",
    )

    pooling: Pooling = Field(
        default="cls",
        description="what an image's embedding is, wherever one is measured, registered or served: the class token, "
        "the mean patch token, or both side by side, each of length 1",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.position == "rope" and self.head_dim % 4:
            raise ValueError(f"rotary positions need a head width that is a multiple of 4, not {self.head_dim}")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def grid(self) -> int:
        """Side of the native grid, in patches."""
        return self.image_size // self.patch_size

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the feed-forward layer; SwiGLU's is cut to two thirds and rounded up to a multiple of 8."""
        hidden = int(self.embed_dim * self.mlp_ratio)
        return (int(hidden * 2 / 3) + 7) // 8 * 8 if self.ffn == "swiglu" else hidden


class HeadConfig(Config):
    """The shape of a projection head; the defaults are the paper's short recipe."""

    hidden_dim: int = Field(default=2048, ge=1, description="width of the two hidden layers")
    bottleneck_dim: int = Field(default=256, ge=1, description="width of the normalised vector before the prototypes")
    prototypes: int = Field(default=65536, ge=2, description="number of prototypes (outputs)")


# name: (embed_dim, depth, num_heads, ffn). S to giant2 are the paper's; its L was trained from scratch with SwiGLU
# and released, distilled, with an MLP. The smaller ones keep S's head width of 64 and are for small images and CPUs.
_VARIANTS: dict[str, tuple[int, int, int, Literal["mlp", "swiglu"]]] = {
    "nano": (64, 6, 1, "mlp"),  # 0.3 M parameters
    "micro": (128, 6, 2, "mlp"),  # 1.2 M
    "mini": (192, 6, 3, "mlp"),  # 2.7 M
    "tiny": (192, 12, 3, "mlp"),  # 5.5 M
    "small": (384, 12, 6, "mlp"),  # 22 M
    "base": (768, 12, 12, "mlp"),  # 87 M
    "large": (1024, 24, 16, "mlp"),  # 304 M
    "large_swiglu": (1024, 24, 16, "swiglu"),  # 304 M
    "giant2": (1536, 40, 24, "swiglu"),  # 1,136 M
}
VARIANTS = tuple(_VARIANTS)


def variant(name: str, **changes: Any) -> VisionTransformerConfig:
    """The configuration of a named size.

    Args:
        name: One of ``VARIANTS``.
        **changes: Fields of ``VisionTransformerConfig`` to set, such as ``patch_size=7, image_size=28``. Without an
            ``image_size`` the native grid is 16 x 16 patches: 224 pixels for patches of 14.

    Raises:
        ConfigError: When there is no such size, or a change is not valid.
    """
    if name not in _VARIANTS:
        close = difflib.get_close_matches(name, VARIANTS, n=1)
        raise ConfigError(
            f"There is no model size {name!r}.",
            expected=", ".join(VARIANTS),
            action=f"did you mean {close[0]!r}?" if close else "choose one of these",
        )
    embed_dim, depth, num_heads, ffn = _VARIANTS[name]
    values = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "ffn": ffn, **changes}
    values.setdefault("image_size", 16 * changes.get("patch_size", 14))
    return VisionTransformerConfig.parse(values, where=f"the model size {name!r}")
