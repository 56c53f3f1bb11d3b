"""The settings of every protocol, as ``evaluation.protocols``. Nothing here imports torch."""

from __future__ import annotations

from pydantic import Field, field_validator

from dinomill.config import Config
from dinomill.evaluation.protocols.config_dense import DepthConfig, SegmentationConfig
from dinomill.evaluation.protocols.config_views import CopiesConfig, RetrievalConfig, RobustnessConfig


class KnnConfig(Config):
    """The weighted kNN vote (Wu et al. 2018, as DINOv2 uses it)."""

    ks: tuple[int, ...] = Field(
        default=(10, 20, 100, 200),
        min_length=1,
        description="numbers of neighbours to choose from; clipped to the bank",
    )
    temperature: float = Field(default=0.07, gt=0, description="of the vote: a neighbour's weight is exp(cosine / T)")
    choice_images: int = Field(
        default=10_000, ge=1, description="bank images at most on which k is chosen, each left out in turn"
    )

    @field_validator("ks")
    @classmethod
    def _sorted(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 1:
            raise ValueError("every k must be at least 1")
        return tuple(sorted(set(values)))


class LinearProbeConfig(Config):
    """The linear probe: logistic regression to convergence."""

    l2: tuple[float, ...] = Field(
        default=(1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7),
        min_length=1,
        description="strengths of L2 regularisation to choose from, for features of unit total variance",
    )
    holdout: float = Field(default=0.2, gt=0, lt=0.9, description="share of the bank on which the strength is chosen")
    iterations: int = Field(default=200, ge=1, description="L-BFGS iterations at most")
    tolerance: float = Field(default=1e-3, gt=0, description="gradient norm, relative to the first, at which it ends")

    @field_validator("l2")
    @classmethod
    def _strongest_first(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("every strength must be above 0: without one the optimum may lie at infinity")
        return tuple(sorted(values, reverse=True))


class ProtocolsConfig(Config):
    """A section for each protocol, by its name."""

    knn: KnnConfig = Field(default_factory=KnnConfig)
    linear: LinearProbeConfig = Field(default_factory=LinearProbeConfig)
    segmentation: SegmentationConfig = Field(default_factory=SegmentationConfig)
    depth: DepthConfig = Field(default_factory=DepthConfig)
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig)
    copies: CopiesConfig = Field(default_factory=CopiesConfig)
    robustness: RobustnessConfig = Field(default_factory=RobustnessConfig)
