"""The names of the stages, in the order in which they run; everything that belongs to one bears its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# `sample` lays out the demo's images and is no part of a run on one's own.
STAGES = (
    "sample",
    "curation",
    "pretraining",
    "distillation",
    "evaluation",
    "registration",
    "packaging",
    "reporting",
)
DEFAULT_STAGES = STAGES[1:]

_PRETRAINING = (None, "pretraining")  # of `distillation.teacher`: what this project's pretraining makes


def given_teacher(parameters: Mapping[str, Any]) -> str | None:
    """The teacher that distillation is given in place of what pretraining makes; None where there is none.

    Args:
        parameters: Of every stage.
    """
    distillation = parameters.get("distillation")
    named = distillation.get("teacher") if isinstance(distillation, Mapping) else None
    return None if named in _PRETRAINING else str(named)


# Where a stage's parameters name weights: a file or folder of the user's, a known name, or models:/….
WEIGHTS = {"curation": "embedding.embedder.network", "pretraining": "initial", "distillation": "teacher"}

# The folder of the handle that a stage writes, by its name in globals.yml.
WRITES = {
    "sample": "sample",
    "curation": "curated",
    "pretraining": "teacher",
    "distillation": "students",
    "evaluation": "evaluation",
    "registration": "registration",
    "packaging": "package",
    "reporting": "report",
}
