"""What a ConvNeXt looks like, and the sizes that have a name (Liu et al. 2022, section 3)."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.errors import ConfigError
from dinomill.models.config import Pooling

Count = Annotated[int, Field(ge=1)]


class ConvNeXtConfig(Config):
    """The shape of a convolutional backbone; the defaults are ConvNeXt-T as released."""

    kind: Literal["convnext"] = Field(description="the family")
    in_channels: int = Field(default=3, ge=1, description="channels of an image")
    stem: int = Field(
        default=4, ge=1, description="side in pixels, and stride, of the first convolution; 2 for images of 32 pixels"
    )
    dims: tuple[Count, ...] = Field(
        default=(96, 192, 384, 768), min_length=1, description="channels of each stage; each halves the map before it"
    )
    depths: tuple[Count, ...] = Field(default=(3, 3, 9, 3), min_length=1, description="blocks of each stage")
    layerscale: float | None = Field(
        default=1e-6, description="initial gain after each block; 1 learns sooner in a short run; null leaves it out"
    )
    norm_eps: float = Field(default=1e-6, gt=0, description="epsilon of every norm")
    pooling: Pooling = Field(
        default="cls",
        description="what an image's embedding is, wherever one is measured, registered or served: the norm of the "
        "pooled map (cls), the mean of the normed places, or both side by side, each of length 1",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.dims) != len(self.depths):
            raise ValueError(f"dims are {len(self.dims)} stages, depths {len(self.depths)}")
        return self

    @property
    def embed_dim(self) -> int:
        """Width of a token: channels of the last map."""
        return self.dims[-1]

    @property
    def depth(self) -> int:
        """Blocks, of all stages."""
        return sum(self.depths)

    @property
    def patch_size(self) -> int:
        """The total stride: side in pixels of what a place of the last map stands for. It sees more than that."""
        return int(self.stem * 2 ** (len(self.dims) - 1))


# name: (dims, depths). T to L are the paper's, and those of DINOv3's distilled ones; the smaller ones are for small
# images and small devices, with a stem of 2 for images of 32 pixels: a map of 4 x 4 places.
_VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "nano": ((32, 64, 128), (1, 1, 2)),  # 0.35 M parameters
    "micro": ((48, 96, 192), (2, 2, 4)),  # 1.5 M
    "tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),  # 28 M
    "small": ((96, 192, 384, 768), (3, 3, 27, 3)),  # 49 M
    "base": ((128, 256, 512, 1024), (3, 3, 27, 3)),  # 88 M
    "large": ((192, 384, 768, 1536), (3, 3, 27, 3)),  # 196 M
}
CONVNEXT_VARIANTS = tuple(_VARIANTS)


def convnext_variant(name: str, **changes: Any) -> ConvNeXtConfig:
    """The configuration of a named size.

    Args:
        name: One of ``CONVNEXT_VARIANTS``.
        **changes: Fields of ``ConvNeXtConfig`` to set, such as ``stem=2, in_channels=1``.

    Raises:
        ConfigError: When there is no such size, or a change is not valid.
    """
    if name not in _VARIANTS:
        close = difflib.get_close_matches(name, CONVNEXT_VARIANTS, n=1)
        raise ConfigError(
            f"There is no ConvNeXt {name!r}.",
            expected=", ".join(CONVNEXT_VARIANTS),
            action=f"did you mean {close[0]!r}?" if close else "choose one of these",
        )
    dims, depths = _VARIANTS[name]
    values = {"kind": "convnext", "dims": dims, "depths": depths, **changes}
    return ConvNeXtConfig.parse(values, where=f"the ConvNeXt {name!r}")
