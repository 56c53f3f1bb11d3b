"""The settings of retrieval, copy detection and robustness. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from dinomill.config import Config
from dinomill.evaluation.protocols.ks import Ks


class RetrievalConfig(Config):
    """Instance retrieval: the gallery ranked by cosine (DINOv2, section 7.3)."""

    average: Literal["steps", "trapezoids"] = Field(
        default="steps",
        description="average precision as precision at every right image, or, as the revisited Oxford and Paris are "
        "scored, the mean of the precision before and at it",
    )
    ks: Ks = Field(default=(1, 5, 10), min_length=1, description="of recall and precision at k")


class CopiesConfig(Config):
    """Copy detection: are changed images found among all others, and by one threshold (DISC21, Douze et al. 2021)?"""

    crop_area: float = Field(default=0.5, gt=0, lt=1, description="of a cropped copy, of 1")
    blur_sigma: float = Field(default=2.0, gt=0, description="of a blurred copy, in pixels of a 224-pixel image")
    jpeg_quality: int = Field(default=30, ge=1, le=95, description="of a compressed copy")
    originals: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of the queries that lie in the gallery; the others' copies have no original",
    )
    candidates: int = Field(default=10, ge=1, description="gallery images that are looked at for each copy")


class RobustnessConfig(Config):
    """kNN on corrupted and moved queries, by a bank that is as it was."""

    severities: tuple[int, ...] = Field(
        default=(1, 3, 5),
        description="of noise, blur, JPEG and contrast, from 1 to 5 (ImageNet-C); none: no corruption",
    )
    shifts: tuple[int, ...] = Field(default=(1, 2), description="pixels each way at most, of the file's")
    scales: tuple[float, ...] = Field(default=(0.8, 1.25), description="factors about the middle")
    turns: tuple[float, ...] = Field(default=(10.0, 30.0), description="degrees, either way")
    ks: Ks = Field(
        default=(10, 20, 100, 200), min_length=1, description="numbers of neighbours, of which the bank chooses"
    )
    temperature: float = Field(default=0.07, gt=0, description="of the vote")

    @field_validator("severities")
    @classmethod
    def _known(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= value <= 5 for value in values):
            raise ValueError("severities go from 1 to 5")
        return tuple(sorted(set(values)))

    @field_validator("shifts", "scales")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(value <= 0 for value in values):
            raise ValueError("every value must be above 0")
        return values

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.severities or self.shifts or self.scales or self.turns):
            raise ValueError("name at least one change: severities, shifts, scales or turns")
        return self
