"""The settings of every protocol, as ``evaluation.protocols``. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from dinomill.config import Config
from dinomill.evaluation.protocols.config_dense import DepthConfig, SegmentationConfig
from dinomill.evaluation.protocols.config_views import CopiesConfig, RetrievalConfig, RobustnessConfig
from dinomill.evaluation.protocols.ks import Ks


class KnnConfig(Config):
    """The weighted kNN vote (Wu et al. 2018, as DINOv2 uses it)."""

    ks: Ks = Field(
        default=(10, 20, 100, 200),
        min_length=1,
        description="numbers of neighbours to choose from; clipped to the bank",
    )
    temperature: float = Field(default=0.07, gt=0, description="of the vote: a neighbour's weight is exp(cosine / T)")
    choice_images: int = Field(
        default=10_000, ge=1, description="bank images at most on which k is chosen, each left out in turn"
    )


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


class LinearGridConfig(Config):
    """Linear classifiers by SGD over the paper's grid (DINOv2, appendix B.3)."""

    rates: tuple[float, ...] = Field(
        default=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
        min_length=1,
        description="learning rates of a batch of 256; larger batches multiply them",
    )
    blocks: tuple[int, ...] = Field(
        default=(1, 4), min_length=1, description="class tokens of so many last blocks, side by side"
    )
    poolings: tuple[Literal["cls", "cls+mean_patch"], ...] = Field(
        default=("cls", "cls+mean_patch"), min_length=1, description="with and without the last block's mean patch"
    )
    epochs: int = Field(default=10, ge=1, description="over the bank; the paper's 12,500 steps of 1,024 are 10")
    min_steps: int = Field(default=500, ge=1, description="steps at least: ten epochs of a small bank teach little")
    batch_size: int = Field(default=1024, ge=1, description="images in a step; clipped to the bank")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD; there is no weight decay")
    holdout: float = Field(default=0.2, gt=0, lt=0.9, description="share of the bank on which a head is chosen")

    @field_validator("rates")
    @classmethod
    def _rising(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("every rate must be above 0")
        return tuple(sorted(set(values)))

    @field_validator("blocks")
    @classmethod
    def _blocks(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 1 or max(values) > 12:
            raise ValueError("each must be 1 to 12")
        return tuple(sorted(set(values)))


class FewShotConfig(Config):
    """Nearest class means of a few labelled images."""

    shots: tuple[int, ...] = Field(default=(1, 5, 10), min_length=1, description="labelled images of each class")
    draws: int = Field(default=10, ge=2, description="times that they are drawn from the bank")

    @field_validator("shots")
    @classmethod
    def _shots(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 1:
            raise ValueError("every number of shots must be at least 1")
        return tuple(sorted(set(values)))


class CostConfig(Config):
    """What a network costs: speed, size and energy."""

    batch_sizes: tuple[int, ...] = Field(default=(1, 32), min_length=1, description="images in one forward pass")
    seconds: float = Field(default=1.0, gt=0, description="timed at least, for each batch size, after warming up")
    watts: float | None = Field(
        default=None,
        gt=0,
        description="of one busy core, where the processor's counter cannot be read; null: no energy",
    )

    @field_validator("batch_sizes")
    @classmethod
    def _batches(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 1:
            raise ValueError("every batch must hold at least 1 image")
        return tuple(sorted(set(values)))


class ProtocolsConfig(Config):
    """A section for each protocol, by its name."""

    knn: KnnConfig = Field(default_factory=KnnConfig)
    linear: LinearProbeConfig = Field(default_factory=LinearProbeConfig)
    linear_grid: LinearGridConfig = Field(default_factory=LinearGridConfig)
    few_shot: FewShotConfig = Field(default_factory=FewShotConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    segmentation: SegmentationConfig = Field(default_factory=SegmentationConfig)
    depth: DepthConfig = Field(default_factory=DepthConfig)
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig)
    copies: CopiesConfig = Field(default_factory=CopiesConfig)
    robustness: RobustnessConfig = Field(default_factory=RobustnessConfig)
