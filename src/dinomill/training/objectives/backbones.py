"""Backbones of students at the start: drawn from the job's seed, without what the job never gives a gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dinomill.models.backbones import Backbone
from dinomill.models.student import StudentBackbone
from dinomill.training.initialisation import initialise
from dinomill.training.job import TrainingJob

HOST = torch.device("cpu")


def drawing(device: torch.device) -> torch.device:
    """Where networks are drawn: on the host, whose numbers are the same everywhere; on meta there are none."""
    return device if device.type == "meta" else HOST


def finish_backbones(job: TrainingJob, backbones: Mapping[str, Backbone], device: torch.device) -> None:
    """Draw again what the job wants drawn otherwise, and freeze what it never trains."""
    for name, backbone in backbones.items():
        if device.type != "meta":
            initialise(backbone, job, name)
        freeze_unused(backbone, job)


def freeze_unused(backbone: StudentBackbone, job: TrainingJob) -> None:
    """Take out what this job never gives a gradient: DDP would wait for it."""
    masked = job.objective == "pretraining"
    for parameter in backbone.untrained(masks=masked, local_crops=bool(job.recipe.crops.local_crops)):
        parameter.requires_grad_(False)
