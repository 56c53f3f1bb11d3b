"""What the sample is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.sample.fashion_mnist import CLASSES


class SampleConfig(Config):
    """How many files of each kind. Every kind but the originals is planted, and written down in ``planted.parquet``."""

    output: Path = Field(description="the folder that is replaced whole")
    source: Path = Field(description="folder of Fashion-MNIST's four idx.gz files, or of the part that ships")
    seed: int = Field(default=0, ge=0, description="another seed, another choice, order and set of names")
    originals: int = Field(default=11_500, ge=10, description="distinct photographs in the pool")
    imbalance: float = Field(default=4.0, ge=1, description="originals of the commonest class over the rarest")
    near_duplicates: int = Field(default=1_000, ge=0, description="originals again: re-encoded, resized or brightened")
    exact_duplicates: int = Field(default=300, ge=0, description="originals again, byte for byte under other names")
    digits: int = Field(default=600, ge=0, le=1797, description="irrelevant: scikit-learn's handwritten digits")
    patches: int = Field(
        default=500, ge=0, description="irrelevant: patches of scikit-image's and scikit-learn's photographs"
    )
    broken: int = Field(default=56, ge=0, description="files that cannot be used, of eight kinds in turn")
    seeds: int = Field(default=500, ge=10, description="good unlabelled examples, none of them in the pool")
    bank: int = Field(default=2_000, ge=10, description="labelled images of the split `train`")
    queries: int = Field(default=1_000, ge=10, description="labelled images of the split `test`")

    @model_validator(mode="after")
    def _whole_classes(self) -> Self:
        for name in ("seeds", "bank", "queries"):
            if getattr(self, name) % len(CLASSES):
                raise ValueError(f"{name} must be a multiple of {len(CLASSES)}, the number of classes")
        if self.near_duplicates + self.exact_duplicates > self.originals:
            raise ValueError("near_duplicates and exact_duplicates together must not exceed originals")
        return self

    def class_counts(self) -> tuple[int, ...]:
        """Originals of each class: a geometric row from the commonest to the rarest, in no class order."""
        order = (3, 7, 0, 9, 5, 1, 8, 2, 6, 4)
        weights = [self.imbalance ** (-rank / (len(CLASSES) - 1)) for rank in order]
        counts = [int(self.originals * weight / sum(weights)) for weight in weights]
        counts[order.index(0)] += self.originals - sum(counts)
        return tuple(counts)


def full_config(config: SampleConfig, source: Path) -> SampleConfig:
    """The same sample from all 70,000 images: a balanced pool of 49,500, a bank of 10,000, 10,000 queries.

    Args:
        config: Where it is laid out, and its seed.
        source: Folder of the four idx.gz files, from ``fetch_full``.
    """
    return SampleConfig(
        output=config.output,
        source=source,
        seed=config.seed,
        originals=49_500,
        imbalance=1.0,
        near_duplicates=4_000,
        exact_duplicates=1_000,
        digits=1_797,
        patches=2_000,
        broken=160,
        seeds=500,
        bank=10_000,
        queries=10_000,
    )
