"""What is registered, under which name, and what it must achieve to become the champion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from dinomill.config import Config
from dinomill.tracking import TrackingConfig

CANDIDATE = "candidate"
CHAMPION = "champion"
ALIAS = r"^[A-Za-z][A-Za-z0-9_-]{0,99}$"
_TAKEN = re.compile(r"v\d+|latest", re.IGNORECASE)  # MLflow's own


def require_alias(name: str) -> str:
    """An alias that MLflow takes.

    Raises:
        ValueError: When it takes no such name.
    """
    if not re.fullmatch(ALIAS, name) or _TAKEN.fullmatch(name):
        raise ValueError(
            "an alias is a letter and letters, digits, - or _ after it, and neither `latest` nor v1, v2, …"
        )
    return name


class PromotionConfig(Config):
    """Requirements for the alias ``champion``, in points of the measure (or its unit); null skips one."""

    measure: str = Field(
        default="knn",
        min_length=1,
        description="the score that is compared, by its name: knn, linear, …; of a further labelled set: SET/MEASURE",
    )
    min_gain_over_random: float | None = Field(
        default=5.0, description="points above the random network, at least: training must have taught something"
    )
    max_drop_from_teacher: float | None = Field(
        default=5.0, ge=0, description="points below the teacher, at most: what distillation may cost"
    )
    max_drop_from_start: float | None = Field(
        default=None, ge=0, description="points below the weights that training started from, at most; 0: no worse"
    )
    max_drop_from_champion: float | None = Field(
        default=1.0, ge=0, description="points below the present champion, at most, on the same labelled images"
    )
    max_growth_from_champion: float | None = Field(
        default=None, ge=1, description="parameters as a multiple of the present champion's, at most"
    )
    max_slowdown_from_champion: float | None = Field(
        default=None,
        ge=1,
        description="time an image takes on this machine, as a multiple of the present champion's, at most",
    )
    min_neighbour_agreement: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="per cent of the ten nearest neighbours, among curated images, that the present champion names too",
    )
    compared_images: int = Field(
        default=256, ge=32, description="curated images by which neighbours and speed are compared"
    )
    without_labels: Literal["hold", "promote"] = Field(
        default="hold", description="when nothing could be measured: stay a candidate, or become champion unmeasured"
    )


class AliasesConfig(Config):
    """What versions are called; a name of one's own where several teams or uses share a registered model."""

    candidate: str = Field(default=CANDIDATE, description="the newest version")
    champion: str = Field(default=CHAMPION, description="the newest one that passed its gate")

    @field_validator("candidate", "champion")
    @classmethod
    def _that_mlflow_takes(cls, name: str) -> str:
        return require_alias(name)

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.candidate == self.champion:
            raise ValueError("candidate and champion have to be two names")
        return self


class RegistrationConfig(Config):
    """The registration stage."""

    output: Path = Field(description="the stage's folder: handle and model card")
    name: str = Field(
        default="dinomill-backbone",
        pattern=r"^[^/:@]+$",
        description="the registered model; without / : and @, which its address models:/name@alias uses",
    )
    network: Literal["student", "teacher"] = Field(
        default="student", description="the champion student, or the teacher"
    )
    aliases: AliasesConfig = Field(default_factory=AliasesConfig)
    gate: PromotionConfig = Field(default_factory=PromotionConfig)
    watts: float | None = Field(
        default=None,
        gt=0,
        description="of the machine while it trains, for the cards where it was not measured; null: energy is unknown",
    )
    force: bool = Field(default=False, description="make a new version although these weights and data have one")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
