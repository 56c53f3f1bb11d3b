"""Regression: students learn a teacher's class and patch features themselves, through a small projector each.

Features are standardised by their mean and spread over the curated images. Nothing keeps the features of a student
apart but those of its teacher, which do not collapse: there are no prototypes and no centering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from dinomill.models.backbones import new_backbone
from dinomill.models.hardware import autocast
from dinomill.models.student import CropFeatures
from dinomill.training.config import DistillationStepConfig, StepConfig
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who, embedding_of
from dinomill.training.losses.dino import GLOBAL_CROPS
from dinomill.training.losses.koleo import koleo_terms
from dinomill.training.losses.regression import class_losses, patch_loss
from dinomill.training.losses.sigreg import sigreg_terms
from dinomill.training.network import Regressor, Student
from dinomill.training.objectives.backbones import drawing, finish_backbones
from dinomill.training.objectives.base import Lesson, Objective, Taught, View
from dinomill.training.objectives.by_prototypes import on_grid
from dinomill.training.objectives.clusters import as_buffers
from dinomill.training.objectives.fitted import fitted
from dinomill.training.precision import compute_dtype
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step_batch import StepBatch


class Regression(Objective):
    """Students that predict what a teacher sees.

    Args:
        students: By name; each with projectors to the teacher's width.
        config: A ``DistillationStepConfig``.
        teacher: What sees the crops.
        tensors: Of ``fitted``.
        teacher_looks: Whether the monitor may ask the teacher, or only the average.
    """

    kind: ClassVar[str] = "regression"

    def __init__(
        self,
        students: Mapping[str, Regressor],
        config: StepConfig,
        teacher: GivenTeacher,
        tensors: Mapping[str, Tensor],
        *,
        teacher_looks: bool = True,
    ) -> None:
        super().__init__(students, config)
        assert isinstance(config, DistillationStepConfig)
        self.patch_share, self._teacher, self._teacher_looks = config.patch_share, teacher, teacher_looks
        self.frozen_teacher = as_buffers(tensors)
        self.compile_if_wanted(tensors["classes.mean"].device)

    @classmethod
    def build(cls, job: TrainingJob, device: torch.device) -> Self:
        """The networks of a job; what is made of the teacher's features is read, or made now."""
        teaching = job.teaching
        assert teaching is not None and teaching.hidden_dim is not None
        teacher = GivenTeacher.of(job)
        tensors = fitted(job, teacher, device)
        with drawing(device):
            students = {
                name: Regressor(new_backbone(model), teaching.dim, hidden_dim=teaching.hidden_dim)
                for name, model in job.models.items()
            }
        finish_backbones(job, {name: student.backbone for name, student in students.items()}, device)
        students = {name: student.to(device) for name, student in students.items()}
        module = cls(students, job.step, teacher, tensors, teacher_looks=teaching.views is None)
        return module.to(device)

    @torch.no_grad()
    def teacher_view(self, batch: StepBatch) -> View:
        """Standardised features: of class tokens [2B, D], and of the patches that are learnt [M, D] on each grid."""
        device = batch.global_crops.device
        with autocast(device, compute_dtype(self.config.precision, device)):
            seen = self._teacher.see(batch)
        with autocast(device):
            patches = [
                self._standardised("patches", on_grid(seen, grid).index_select(0, self.learnt(batch, grid).indices))
                for grid in self.grids(batch)
            ]
            return self._standardised("classes", seen.cls), *patches

    def assign(self, views: Sequence[View], values: ScheduleValues) -> list[Taught]:
        """The features are what is learnt; each batch's are its own."""
        del values
        return [tuple(view) for view in views]

    def student_losses(self, student: Student, seen: list[CropFeatures], lesson: Lesson) -> dict[str, Tensor]:
        """Cosine and smooth L1 of class tokens and of the patches that are learnt."""
        assert isinstance(student, Regressor)
        config, images = self.config.losses, len(lesson.batch.global_crops)
        classes = class_losses(student.class_projector(torch.cat([crops.cls for crops in seen])), lesson.classes)
        predicted = student.patch_projector(seen[0].patches)
        patches = patch_loss(predicted, lesson.patches, lesson.learnt.weights, images=images)
        return {
            "class_local": config.dino_weight * classes.local,
            "class_global": config.dino_weight * classes.globals,
            "patches": config.ibot_weight * patches,
        }

    def extra_losses(
        self, student: Student, seen: list[CropFeatures], batch: StepBatch, values: ScheduleValues
    ) -> dict[str, Tensor]:
        """KoLeo and SIGReg, where they are asked for."""
        del student
        config = self.config.losses
        terms = {} if config.koleo_weight == 0 else {"koleo": koleo_terms(config, seen[0].cls)}
        if config.sigreg is not None:
            classes = [crops.cls for crops in seen]
            terms |= sigreg_terms(config.sigreg, classes, len(batch.global_crops) // GLOBAL_CROPS, values.step)
        return terms

    @torch.no_grad()
    def look(self, name: str, images: Tensor, who: Who = "average") -> Seen:
        """What the teacher, a student or its average makes of images.

        For want of prototypes the strongest of the teacher's standardised features stands for the nearest one.
        """
        if who == "teacher" and self._teacher_looks:
            seen = self._teacher.features(images)
            strongest = self._standardised("classes", seen.cls).argmax(dim=1)
            return Seen(seen.cls, seen.cls, strongest, seen.patches)
        network = self.student(name) if who == "student" else self.average(name)
        assert isinstance(network, Regressor)
        (seen,) = network.backbone.features([images])
        strongest = network.class_projector(seen.cls).argmax(dim=1)
        return Seen(embedding_of(seen, network.backbone.pooling), seen.cls, strongest, seen.patches)

    def _standardised(self, part: str, rows: Tensor) -> Tensor:
        mean, std = (self.frozen_teacher.get_buffer(f"{part}_{name}") for name in ("mean", "std"))
        return (rows.float() - mean) / std
