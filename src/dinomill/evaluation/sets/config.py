"""Where labelled sets lie, and what is measured on each. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from dinomill.config import Config

Kind = Literal["classes", "masks", "depth", "list"]

# What people ask `dinomill evaluate` for, and the kind of labels that it needs.
TASKS: dict[str, Kind] = {"classification": "classes", "segmentation": "masks", "depth": "depth", "retrieval": "list"}
# What is measured on a set of a kind where its configuration names nothing.
USUAL: dict[str, tuple[str, ...]] = {
    "classes": ("knn", "linear"),
    "masks": ("segmentation",),
    "depth": ("depth",),
    "list": ("retrieval",),
}


class Limits(NamedTuple):
    """Which splits are read, and how many images of each at most."""

    bank_split: str
    query_split: str
    max_bank: int | None
    max_queries: int | None


class SetConfig(Config):
    """One labelled set."""

    labelled: str = Field(
        min_length=1,
        description="classes: a folder <split>/<class>/<image>, or a manifest (.parquet, .csv: path, label, split); "
        "masks, depth: a folder of images/<split> and masks/<split> or depth/<split>; list: .csv: path, instance, role",
    )
    kind: Kind = Field(default="classes", description="what the labels are")
    protocols: tuple[str, ...] = Field(default=(), description="what is measured; empty: what is usual for the kind")
    bank_split: str | None = Field(default=None, description="split that probes learn from; null: evaluation's")
    query_split: str | None = Field(default=None, description="split that is scored; null: evaluation's")
    max_bank: int | None = Field(default=None, ge=10, description="bank images at most; null: evaluation's")
    max_queries: int | None = Field(default=None, ge=10, description="query images at most; null: evaluation's")

    targets: str | None = Field(
        default=None, description="masks, depth: the folder beside `images` that holds them; null: masks or depth"
    )
    ignored: tuple[int, ...] = Field(default=(255,), description="masks: ids of pixels that count for nothing")
    scale: float | None = Field(
        default=None,
        gt=0,
        description="depth: of one unit of the files; .001 for millimetres; null: floats as they are",
    )
    depths: tuple[float, float | None] = Field(
        default=(0.001, None), description="depth: least and greatest that count; null: the bank's greatest"
    )
    crop: tuple[int, int, int, int] | None = Field(
        default=None, description="depth: what of the queries is scored, in pixels: top, bottom, left, right; null: all"
    )
    unit: str = Field(default="m", description="depth: of the depths, for people")

    @field_validator("protocols")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a protocol is named twice")
        return names

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the protocols."""
        return self.protocols or USUAL[self.kind]

    def limits(self, usual: Limits) -> Limits:
        """Splits and numbers of images, where the set says nothing else than the evaluation."""
        own = (self.bank_split, self.query_split, self.max_bank, self.max_queries)
        return Limits(*(given if given is not None else other for given, other in zip(own, usual, strict=True)))  # type: ignore[arg-type]
