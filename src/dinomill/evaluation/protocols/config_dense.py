"""The settings of the protocols that look at places: segmentation and depth. Nothing here imports torch."""

from __future__ import annotations

from pydantic import Field, field_validator

from dinomill.config import Config


class _DenseConfig(Config):
    image_size: int | None = Field(
        default=None,
        ge=1,
        description="shorter side in pixels at which images are seen, as near as whole patches allow; null: as each "
        "network's preprocessing says",
    )
    pixels: int = Field(
        default=100_000, ge=1_000, description="pixels of the bank that a head learns from, evenly from all images"
    )
    holdout: float = Field(default=0.2, gt=0, lt=0.9, description="share of the bank's images on which is chosen")
    shown: int = Field(default=4, ge=0, description="queries that are drawn with their truth and what is predicted")


class SegmentationConfig(_DenseConfig):
    """A linear layer on places, upsampled to the mask (DINOv2, section 7.4)."""

    l2: tuple[float, ...] = Field(
        default=(1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        min_length=1,
        description="strengths of L2 regularisation to choose from, for features of unit total variance",
    )
    iterations: int = Field(default=200, ge=1, description="L-BFGS iterations at most")
    tolerance: float = Field(default=1e-3, gt=0, description="gradient norm, relative to the first, at which it ends")

    @field_validator("l2")
    @classmethod
    def _strongest_first(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return _positive(values, reverse=True)


class DepthConfig(_DenseConfig):
    """Linear layers from places and class token to depth (DINOv2, section 7.4, "lin. 1")."""

    bins: int = Field(default=256, ge=2, description="depths at equal steps between the least and the greatest")
    rates: tuple[float, ...] = Field(
        default=(1e-3, 3e-3, 1e-2, 3e-2), min_length=1, description="learning rates of the bins' layer to choose from"
    )
    steps: int = Field(default=600, ge=10, description="of AdamW, the rate falling by a cosine")
    batch: int = Field(default=1024, ge=16, description="pixels in a step")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    l2: tuple[float, ...] = Field(
        default=(1.0, 1e-1, 1e-2, 1e-3, 1e-4),
        min_length=1,
        description="strengths of regularisation of the plain layer to choose from, for channels of variance 1",
    )

    @field_validator("l2", "rates")
    @classmethod
    def _sorted(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return _positive(values, reverse=True)


def _positive(values: tuple[float, ...], *, reverse: bool) -> tuple[float, ...]:
    if min(values) <= 0:
        raise ValueError("every value must be above 0")
    return tuple(sorted(set(values), reverse=reverse))
