"""What is registered, under which name, and what it must achieve to become the champion."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dinomill.config import Config
from dinomill.tracking import TrackingConfig

CANDIDATE = "candidate"
CHAMPION = "champion"


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
    without_labels: Literal["hold", "promote"] = Field(
        default="hold", description="when nothing could be measured: stay a candidate, or become champion unmeasured"
    )


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
    gate: PromotionConfig = Field(default_factory=PromotionConfig)
    watts: float | None = Field(
        default=None,
        gt=0,
        description="of the machine while it trains, for the cards where it was not measured; null: energy is unknown",
    )
    force: bool = Field(default=False, description="make a new version although these weights and data have one")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
