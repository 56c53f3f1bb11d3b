"""What the objectives of a teacher without heads have in common: it gives features, and what is made of them is learnt.

What is made once of the features of many images (`fitted`) lies beside the teacher, frozen as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from dinomill.models.backbones import Backbone, new_backbone
from dinomill.models.hardware import autocast
from dinomill.training.config import DistillationStepConfig, StepConfig, TeachingConfig
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.job import TrainingJob
from dinomill.training.network import Student
from dinomill.training.objectives.backbones import drawing, finish_backbones
from dinomill.training.objectives.base import Objective, View
from dinomill.training.objectives.by_prototypes import on_grid
from dinomill.training.objectives.fitted import fitted
from dinomill.training.precision import compute_dtype
from dinomill.training.step_batch import StepBatch


class OfFeatures(Objective):
    """Students of a teacher that has features alone.

    Args:
        students: By name.
        config: A ``DistillationStepConfig``.
        teacher: What sees the crops.
        tensors: Of ``fitted``.
        teacher_looks: Whether the monitor may ask the teacher, or only the average.
    """

    def __init__(
        self,
        students: Mapping[str, Student],
        config: StepConfig,
        teacher: GivenTeacher,
        tensors: Mapping[str, Tensor],
        *,
        teacher_looks: bool = True,
    ) -> None:
        super().__init__(students, config)
        assert isinstance(config, DistillationStepConfig)
        self.patch_share, self._teacher, self._teacher_looks = config.patch_share, teacher, teacher_looks
        self.frozen_teacher = _as_buffers(tensors)
        self._ready()

    @classmethod
    def build(cls, job: TrainingJob, device: torch.device) -> Self:
        """The networks of a job; what is made of the teacher's features is read, or made now."""
        teaching = job.teaching
        assert teaching is not None
        teacher = GivenTeacher.of(job)
        tensors = fitted(job, teacher, device)
        with drawing(device):
            students = {
                name: cls.new_student(new_backbone(model), job, teaching, tensors) for name, model in job.models.items()
            }
        finish_backbones(job, {name: student.backbone for name, student in students.items()}, device)
        students = {name: student.to(device) for name, student in students.items()}
        module = cls(students, job.step, teacher, tensors, teacher_looks=teaching.views is None)
        return module.to(device)

    @classmethod
    @abstractmethod
    def new_student(
        cls, backbone: Backbone, job: TrainingJob, teaching: TeachingConfig, tensors: Mapping[str, Tensor]
    ) -> Student:
        """A backbone with what it learns through."""

    @abstractmethod
    def wanted(self, part: str, rows: Tensor) -> Tensor:
        """What is to be learnt of the teacher's features [R, D] of a part, ``classes`` or ``patches``; in fp32."""

    @abstractmethod
    def _ready(self) -> None:
        """Make what is left; students and teacher are there."""

    @torch.no_grad()
    def teacher_view(self, batch: StepBatch) -> View:
        """What is wanted: of class tokens [2B, W], and of the patches that are learnt [M, W] on each grid."""
        device = batch.global_crops.device
        with autocast(device, compute_dtype(self.config.precision, device)):
            seen = self._teacher.see(batch)
        with autocast(device):
            patches = [
                self.wanted("patches", on_grid(seen, grid).index_select(0, self.learnt(batch, grid).indices))
                for grid in self.grids(batch)
            ]
            return self.wanted("classes", seen.cls), *patches

    def _fitted(self, part: str, name: str) -> Tensor:
        """One of the tensors that were made of the teacher's features."""
        return self.frozen_teacher.get_buffer(f"{part}_{name}")


def _as_buffers(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module that carries tensors to where the module lives; as a teacher's, they are in no checkpoint."""
    holder = nn.Module()
    for name, tensor in tensors.items():
        holder.register_buffer(name.replace(".", "_"), tensor.clone())
    return holder
