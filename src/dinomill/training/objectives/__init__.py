"""What students learn, by kind: from their own average (pretraining), or from a given teacher by what it has."""

from __future__ import annotations

import torch

from dinomill.training.job import TrainingJob
from dinomill.training.objectives.base import Objective

__all__ = ["Objective", "build"]


def build(job: TrainingJob, device: torch.device) -> Objective:
    """The networks of a job with what is between them, freshly initialised or from the weights that it names.

    Drawn on the host, whose random numbers are the same everywhere. On the meta device only shapes are read.

    Raises:
        InputError: When the teacher, or the weights to start from, are missing or do not fit.
    """
    if job.objective == "pretraining":
        from dinomill.training.objectives.pretraining import Pretraining

        return Pretraining.build(job, device)
    if job.objective == "assignments":
        from dinomill.training.objectives.assignments import Assignments

        return Assignments.build(job, device)
    if job.objective == "clusters":
        from dinomill.training.objectives.clusters import Clusters

        return Clusters.build(job, device)
    from dinomill.training.objectives.regression import Regression

    return Regression.build(job, device)
