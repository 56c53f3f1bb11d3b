"""What a sample is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.sample.fashion_mnist import CLASSES as GARMENTS
from dinomill.sample.photographs import NAMES as PHOTOGRAPHS

Kind = Literal["photographs", "garments"]


class SampleConfig(Config):
    """How many files of each kind. Every kind but the originals is planted, and written down in ``planted.parquet``."""

    output: Path = Field(description="the folder that is replaced whole")
    kind: Kind = Field(
        default="photographs",
        description="photographs: tiles of 14 photographs, in colour; garments: Fashion-MNIST's, grey",
    )
    source: Path = Field(
        description="folder of Fashion-MNIST's four idx.gz files, or of the part that ships; of photographs' sample "
        "the garments that do not belong there"
    )
    fetch: bool = Field(
        default=False,
        description="of garments: put all 70,000 into `source` first, from the system or a Debian archive",
    )
    seed: int = Field(default=0, ge=0, description="another seed, another choice, order and set of names")
    originals: int = Field(default=6_000, ge=10, description="distinct pictures in the pool, one file each")
    imbalance: float = Field(default=4.0, ge=1, description="originals of the commonest class over the rarest")
    scenes: int = Field(
        default=2,
        ge=0,
        le=2,
        description="photographs that come whole, as large TIFFs of which curation cuts tiles: hubble, then retina",
    )
    near_duplicates: int = Field(default=600, ge=0, description="originals again: re-encoded, resized or brightened")
    exact_duplicates: int = Field(default=200, ge=0, description="originals again, byte for byte under other names")
    garments: int = Field(default=300, ge=0, description="irrelevant: photographs of clothes, from `source`")
    digits: int = Field(default=300, ge=0, le=1797, description="irrelevant: scikit-learn's handwritten digits")
    drawings: int = Field(default=300, ge=0, description="irrelevant: lines and shapes in a few flat colours")
    patches: int = Field(default=0, ge=0, description="irrelevant, of garments' sample: patches of the photographs")
    broken: int = Field(default=56, ge=0, description="files that cannot be used, of eight kinds in turn")
    seeds: int = Field(default=840, ge=10, description="good unlabelled examples, none of them in the pool")
    bank: int = Field(default=2_100, ge=10, description="labelled images of the split `train`")
    queries: int = Field(default=1_050, ge=10, description="labelled images of the split `test`")

    @model_validator(mode="after")
    def _whole_classes(self) -> Self:
        for name in ("seeds", "bank", "queries"):
            if getattr(self, name) % len(self.classes):
                raise ValueError(f"{name} must be a multiple of {len(self.classes)}, the number of classes")
        if self.near_duplicates + self.exact_duplicates > self.originals:
            raise ValueError("near_duplicates and exact_duplicates together must not exceed originals")
        return self

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        never = {"photographs": ("patches", "fetch"), "garments": ("garments", "scenes")}[self.kind]
        for name in never:
            if getattr(self, name):
                raise ValueError(f"{name} is not for a sample of {self.kind}: set it to {type(getattr(self, name))()}")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """What the labels are."""
        return PHOTOGRAPHS if self.kind == "photographs" else GARMENTS

    def class_counts(self, among: int | None = None) -> tuple[int, ...]:
        """Originals of each class: a geometric row from the commonest to the rarest, in no class order.

        Args:
            among: Of so many classes; None: of all.
        """
        count = among or len(self.classes)
        # The factor has no divisor in common with the number of classes: every rank comes once.
        factor = 7 if count % 7 else 3
        order = [factor * label % count for label in range(count)]
        weights = [self.imbalance ** (-rank / max(count - 1, 1)) for rank in order]
        counts = [int(self.originals * weight / sum(weights)) for weight in weights]
        counts[order.index(0)] += self.originals - sum(counts)
        return tuple(counts)
