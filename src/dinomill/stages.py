"""The names of the stages, in the order in which they run; everything that belongs to one bears its name."""

from __future__ import annotations

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
