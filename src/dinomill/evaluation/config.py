"""What is measured, on how much, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from dinomill.config import Config
from dinomill.models.config import Pooling
from dinomill.quality.gate import GateConfig


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
    """The linear probe."""

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


class RandomConfig(Config):
    """The randomly initialised network of the teacher's shape: what the architecture alone is worth, at its best."""

    seeds: int = Field(
        default=3, ge=0, description="networks drawn; 0 shows none: they cost as much as trained ones of their size"
    )
    poolings: tuple[Pooling, ...] = Field(
        default=("cls", "mean_patch", "cls+mean_patch"),
        min_length=1,
        description="embeddings tried of each; the best network and pooling by kNN on the bank are what is shown",
    )
    layerscale: float = Field(
        default=1.0,
        gt=0,
        description="LayerScale gain; at training's initial 1e-5 the class token would hardly depend on the image",
    )


class EvaluationConfig(Config):
    """The evaluation stage."""

    output: Path = Field(description="the stage's folder: table, plots, features")
    work: Path = Field(description="extracted features are kept here and used again; and what the gate found")
    gate: GateConfig = GateConfig()
    bank_split: str = Field(default="train", description="labelled split that the probes learn from")
    query_split: str = Field(default="test", description="labelled split that is scored")
    max_bank: int | None = Field(default=None, ge=10, description="bank images at most, evenly; null: all")
    max_queries: int | None = Field(default=None, ge=10, description="query images at most, evenly; null: all")
    knn: KnnConfig = Field(default_factory=KnnConfig)
    linear: LinearProbeConfig = Field(default_factory=LinearProbeConfig)
    random: RandomConfig = Field(default_factory=RandomConfig)
    batch_size: int = Field(default=64, ge=1, description="images in one forward pass")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="of the networks' products; auto: bfloat16 where the hardware is fast in it"
    )
    bootstrap: int = Field(default=2000, ge=100, description="resamples of the queries for confidence intervals")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the intervals")
    shown_queries: int = Field(
        default=24, ge=0, description="queries whose neighbours and patch tokens are kept to show"
    )
    shown_neighbours: int = Field(default=8, ge=1, description="neighbours kept for each of them")
    seed: int = Field(default=0, ge=0, description="of held-out parts, random networks and resamples")

    @property
    def quality(self) -> Path:
        """Where the gate writes: outside of DVC, for Data Docs carry the time of their run."""
        return self.work / "quality"
