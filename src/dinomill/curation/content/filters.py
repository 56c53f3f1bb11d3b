"""Filters: unsafe, too dark, bright, flat, blurred or empty; each off unless it has a limit. And faces, to blur."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.content.faces import FaceConfig
from dinomill.errors import InputError

# Reason, the column that it looks at, the limit, and whether the limit is the least (else the most) that passes.
_RULES = (
    ("nsfw", "nsfw", "max_nsfw", False),
    ("too_dark", "brightness", "min_brightness", True),
    ("too_bright", "brightness", "max_brightness", False),
    ("too_flat", "contrast", "min_contrast", True),
    ("too_blurred", "sharpness", "min_sharpness", True),
    ("too_empty", "entropy", "min_entropy", True),
)
FILTER_COLUMNS = tuple(dict.fromkeys(column for _, column, _, _ in _RULES))


class FilterConfig(Config):
    """Limits of the measures that the scan takes; null: that filter is off."""

    max_nsfw: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="probability of unsafe content; 1 leaves nothing out and records the score",
    )
    faces: FaceConfig | None = Field(default=None, description="look for faces, and blur them; null: do not look")
    min_brightness: float | None = Field(default=None, ge=0, le=1, description="mean luminance in [0, 1]")
    max_brightness: float | None = Field(default=None, ge=0, le=1, description="mean luminance in [0, 1]")
    min_contrast: float | None = Field(default=None, ge=0, le=1, description="standard deviation of the luminance")
    min_sharpness: float | None = Field(default=None, ge=0, description="variance of the luminance's Laplacian")
    min_entropy: float | None = Field(default=None, ge=0, le=8, description="of the luminance's histogram, in bits")


class Filtered(NamedTuple):
    """Which rows a filter leaves out, and why: the first rule that a row breaks."""

    out: npt.NDArray[np.bool_]
    reason: npt.NDArray[np.object_]
    detail: npt.NDArray[np.object_]


def apply_filters(files: pa.Table, config: FilterConfig) -> Filtered:
    """Hold every row of the scan against the limits; unreadable files pass, they have another fate.

    Raises:
        InputError: When a limit is set for what the scan did not measure.
    """
    found = Filtered(
        np.zeros(len(files), dtype=np.bool_),
        np.full(len(files), None, dtype=object),
        np.full(len(files), None, dtype=object),
    )
    for reason, column, name, least in _RULES:
        limit = getattr(config, name)
        if limit is None:
            continue
        if len(files) and files[column].null_count == len(files):
            raise InputError(
                f"curation.filters.{name} is set, and the scan did not measure it.",
                action="run the curation stage from its start: `kedro run --pipelines curation` (with `--env` in an "
                "environment)",
            )
        values = np.asarray(files[column].to_numpy(zero_copy_only=False), dtype=np.float64)
        broken = np.flatnonzero(((values < limit) if least else (values > limit)) & ~found.out)
        found.out[broken] = True
        found.reason[broken] = reason
        bound = "at least" if least else "at most"
        found.detail[broken] = [f"{column} {values[row]:.4g}; {bound} {limit:g}" for row in broken]
    return found
