"""Regression: students learn a teacher's class and patch features themselves, through a small projector each.

Features are whitened by what is known of many images (mean away, every direction the same spread), or standardised
number by number. Nothing keeps the features of a student apart but those of its teacher, which do not collapse: there
are no prototypes and no centering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dinomill.models.backbones import Backbone
from dinomill.models.student import CropFeatures
from dinomill.training.config import TeachingConfig
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who, embedding_of
from dinomill.training.losses.dino import GLOBAL_CROPS
from dinomill.training.losses.koleo import koleo_terms
from dinomill.training.losses.regression import class_losses, patch_loss
from dinomill.training.losses.sigreg import sigreg_terms
from dinomill.training.network import Regressor, Student
from dinomill.training.objectives.base import Lesson, Taught, View
from dinomill.training.objectives.fitted import whiten
from dinomill.training.objectives.of_features import OfFeatures
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step_batch import StepBatch


class Regression(OfFeatures):
    """Students that predict what a teacher sees; each has projectors to what is wanted of it."""

    kind: ClassVar[str] = "regression"

    @classmethod
    def new_student(
        cls, backbone: Backbone, job: TrainingJob, teaching: TeachingConfig, tensors: Mapping[str, Tensor]
    ) -> Regressor:
        """A projector for class features and one for patches."""
        del job, tensors
        assert teaching.hidden_dim is not None
        return Regressor(backbone, teaching.whitened_dim or teaching.dim, hidden_dim=teaching.hidden_dim)

    def _ready(self) -> None:
        self.compile_if_wanted(self._fitted("classes", "mean").device)

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
            strongest = self.wanted("classes", seen.cls).argmax(dim=1)
            return Seen(seen.cls, seen.cls, strongest, seen.patches)
        network = self.student(name) if who == "student" else self.average(name)
        assert isinstance(network, Regressor)
        (seen,) = network.backbone.features([images])
        strongest = network.class_projector(seen.cls).argmax(dim=1)
        return Seen(embedding_of(seen, network.backbone.pooling), seen.cls, strongest, seen.patches)

    def wanted(self, part: str, rows: Tensor) -> Tensor:
        """Whitened, or standardised number by number."""
        if f"{part}_matrix" in self.frozen_teacher.state_dict():
            return whiten(rows, self._fitted(part, "mean"), self._fitted(part, "matrix"), unit=False)
        return (rows.float() - self._fitted(part, "mean")) / self._fitted(part, "std")
