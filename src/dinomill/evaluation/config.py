"""What is measured, on how much, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dinomill.config import Config
from dinomill.evaluation.protocols import PROTOCOLS
from dinomill.evaluation.protocols.config import ProtocolsConfig
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.models.config import Pooling
from dinomill.quality.gate import GateConfig
from dinomill.scores import KINDS


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


class ReferenceConfig(Config):
    """A network made elsewhere, as a row to compare with."""

    network: str = Field(min_length=1, description="any address of a network: efficientnet-lite0, a file, a folder, …")
    image_size: int | None = Field(
        default=None,
        ge=1,
        description="whole images are brought to this side, pixels; null: put to it as the network's own preprocessing "
        "says",
    )


class SharesConfig(Config):
    """How many labelled images would help: probes on parts of the bank, for a plot of the report."""

    parts: tuple[float, ...] = Field(
        default=(0.125, 0.25, 0.5), description="shares of the bank, of every class, nested; empty: not measured"
    )
    draws: int = Field(default=3, ge=1, description="times that each is drawn")
    protocols: tuple[str, ...] = Field(
        default=("knn", "linear"), description="of those that are measured on the labelled images: knn, linear"
    )
    max_images: int = Field(
        default=10_000, ge=1, description="parts of more images are left out: probes of them take as long as the table"
    )

    @field_validator("parts")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if values and not 0 < min(values) <= max(values) < 1:
            raise ValueError("every share must be above 0 and below 1; the whole bank is in the table")
        return tuple(sorted(set(values)))

    @field_validator("protocols")
    @classmethod
    def _of_embeddings(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if other := [name for name in values if name not in ("knn", "linear")]:
            raise ValueError(f"{other[0]!r} cannot be measured on parts of the bank; knn and linear can")
        return values


class EvaluationConfig(Config):
    """The evaluation stage."""

    output: Path = Field(description="the stage's folder: table, plots, features")
    work: Path = Field(description="extracted features are kept here and used again; and what the gate found")
    gate: GateConfig = GateConfig()
    bank_split: str = Field(default="train", description="labelled split that the probes learn from")
    query_split: str = Field(default="test", description="labelled split that is scored")
    max_bank: int | None = Field(default=None, ge=10, description="bank images at most, evenly; null: all")
    max_queries: int | None = Field(default=None, ge=10, description="query images at most, evenly; null: all")
    measured: tuple[str, ...] = Field(
        default=("knn", "linear"), min_length=1, description="protocols on the labelled images, in order of the columns"
    )
    protocols: ProtocolsConfig = Field(default_factory=ProtocolsConfig)
    sets: dict[str, SetConfig] = Field(
        default_factory=dict, description="further labelled sets, by name: a table each, by the same networks"
    )
    random: RandomConfig = Field(default_factory=RandomConfig)
    references: tuple[ReferenceConfig, ...] = Field(
        default=(), description="networks made elsewhere, a row each; they decide nothing"
    )
    trained_on: Literal["refuse", "flag"] = Field(
        default="refuse", description="when a file that is scored was trained on: stop, or say so and measure"
    )
    champion: str | None = Field(
        default=None, description="address of the version in use, as a row where there is one: models:/NAME@champion"
    )
    batch_size: int = Field(default=64, ge=1, description="images in one forward pass")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="of the networks' products; auto: bfloat16 where the hardware is fast in it"
    )
    bootstrap: int = Field(default=2000, ge=100, description="resamples of the queries for confidence intervals")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the intervals")
    shown_queries: int = Field(
        default=24, ge=0, description="queries whose neighbours and patch tokens are kept to show"
    )
    shown_failures: int = Field(
        default=12, ge=0, description="of each model, queries kept to show on which its neighbours voted wrongly"
    )
    shown_neighbours: int = Field(default=8, ge=1, description="neighbours kept for each of them")
    shares: SharesConfig = Field(default_factory=SharesConfig)
    seed: int = Field(default=0, ge=0, description="of held-out parts, random networks and resamples")

    @property
    def quality(self) -> Path:
        """Where the gate writes: outside of DVC, for Data Docs carry the time of their run."""
        return self.work / "quality"

    @property
    def limits(self) -> Limits:
        """Splits and numbers of images, where a set says nothing else."""
        return Limits(self.bank_split, self.query_split, self.max_bank, self.max_queries)

    def main(self, labelled: str) -> SetConfig:
        """The set of the labelled images."""
        return SetConfig(labelled=labelled, protocols=self.measured)

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        for name in ("knn", "linear"):
            if isinstance(values, Mapping) and name in values:
                raise ValueError(f"`{name}` is a section of `protocols` now: write protocols: {{{name}: …}}")
        return values

    @model_validator(mode="after")
    def _known(self) -> Self:
        places = {"measured": self.measured} | {
            f"sets.{name}.protocols": one.protocols for name, one in self.sets.items()
        }
        for place, names in places.items():
            if unknown := [name for name in names if name not in PROTOCOLS]:
                raise ValueError(f"{place} names {unknown[0]!r}, and there are: {', '.join(PROTOCOLS)}")
        if taken := [name for name in self.sets if name in (*KINDS, "labelled", "gain", "images") or not _plain(name)]:
            raise ValueError(f"a set cannot be called {taken[0]!r}: take a name of letters, digits, - and _")
        return self


def _plain(name: str) -> bool:
    return name.replace("-", "").replace("_", "").isalnum()
