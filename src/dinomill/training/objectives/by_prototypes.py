"""Losses against prototypes: DINO for class tokens, iBOT for patches, KoLeo; with Gram anchoring and SIGReg if asked.

Whose prototypes they are, and which patches are learnt, is for the subclasses to say: the student's average's
(pretraining), a given teacher's (assignments), the centres of its features (clusters).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from dinomill.models.hardware import autocast
from dinomill.models.student import CropFeatures, StudentBackbone
from dinomill.training.averages import move_average
from dinomill.training.centering import Centering, Targets
from dinomill.training.config import CenteringKind, StepConfig
from dinomill.training.losses.cross_entropy import CrossEntropyOptions
from dinomill.training.losses.dino import GLOBAL_CROPS, dino_losses
from dinomill.training.losses.gram import anchor_patches, gram_loss, resize_patches
from dinomill.training.losses.ibot import ibot_loss
from dinomill.training.losses.koleo import koleo_terms
from dinomill.training.losses.prototypes import Prototypes
from dinomill.training.losses.sigreg import sigreg_terms
from dinomill.training.network import Network, Student, frozen_copy, prototypes
from dinomill.training.objectives.base import Learnt, Lesson, Objective, Taught, View, grid_of
from dinomill.training.precision import compute_dtype
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step_batch import StepBatch


class ByPrototypes(Objective):
    """Students that learn to which prototypes a teacher assigns what it sees.

    Args:
        students: By name.
        config: Losses, centering, precision.
    """

    anchor: torch.nn.Module | None

    def __init__(self, students: Mapping[str, Network], config: StepConfig) -> None:
        super().__init__(students, config)

    def _centre(self, of_classes: int, of_patches: int) -> None:
        """Make the centerings of so many prototypes; when the teacher is there."""
        self.dino_centering = Centering(self.config.centering, of_classes)
        self.ibot_centering = Centering(self.config.centering, of_patches)
        teacher = self.anchored()
        self.anchor = None
        if self.config.losses.gram is not None and teacher is not None:
            self.anchor = frozen_copy(teacher)
        self.compile_if_wanted(self.dino_centering.center.device)

    @abstractmethod
    def prototypes(self) -> tuple[Prototypes, Prototypes]:
        """The teacher's of class tokens, and of patches."""

    def anchored(self) -> torch.nn.Module | None:
        """The backbone whose patches Gram anchoring keeps to; None: there is none to copy."""
        return None

    def assigned_together(self) -> bool:
        """As one large batch's, unless the configuration leaves every micro-batch to itself."""
        return self.config.centering.over == "step"

    def centres(self) -> list[Tensor]:
        """The centres of softmax centering."""
        if self.config.centering.kind is not CenteringKind.SOFTMAX:
            return []
        return [self.dino_centering.center, self.ibot_centering.center]

    @torch.no_grad()
    def assign(self, views: Sequence[View], values: ScheduleValues) -> list[Taught]:
        """Targets of several batches' teacher views together, batch by batch."""
        dtype = compute_dtype(self.config.precision, views[0][0].device)
        how = {"temperature": values.teacher_temperature, "dtype": dtype, "compiled": self._compiled}
        of_classes, of_patches = self.prototypes()
        found: list[list[Targets]] = []
        for part in range(len(views[0])):
            rows = [view[part] for view in views]
            centering, table = (self.ibot_centering, of_patches) if part else (self.dino_centering, of_classes)
            targets: Targets = centering(torch.cat(rows), table, **how)
            found.append(targets.split([len(row) for row in rows]))
        return list(zip(*found, strict=True))

    def student_losses(self, student: Student, seen: list[CropFeatures], lesson: Lesson) -> dict[str, Tensor]:
        """Cross-entropies of class tokens and of the patches that are learnt."""
        assert isinstance(student, Network)
        config, images = self.config.losses, len(lesson.batch.global_crops)
        cls_features, patch_features = student.project(torch.cat([crops.cls for crops in seen]), seen[0].patches)
        dtype = compute_dtype(self.config.precision, lesson.batch.global_crops.device)
        options = CrossEntropyOptions(config.student_temperature, dtype, config.keep_mib * 2**20, self._compiled)
        dino = dino_losses(
            cls_features, prototypes(student.dino_head), lesson.classes, batch=images // GLOBAL_CROPS, options=options
        )
        head = prototypes(student.patch_head)
        ibot = ibot_loss(patch_features, head, lesson.patches, lesson.learnt.weights, images=images, options=options)
        return {
            "dino_local": config.dino_weight * dino.local,
            "dino_global": config.dino_weight * dino.globals,
            "ibot": config.ibot_weight * ibot,
        }

    def every_patch_is_seen(self, values: ScheduleValues) -> bool:
        """While the Gram loss runs; without it the last block's feed-forward layer can leave most out."""
        gram = self.config.losses.gram
        return gram is not None and values.step >= gram.start

    def extra_losses(
        self, student: Student, seen: list[CropFeatures], batch: StepBatch, values: ScheduleValues
    ) -> dict[str, Tensor]:
        """KoLeo, SIGReg and Gram anchoring."""
        del student
        config = self.config.losses
        terms = {"koleo": koleo_terms(config, seen[0].cls)}
        if config.sigreg is not None:
            classes = [crops.cls for crops in seen]
            terms |= sigreg_terms(config.sigreg, classes, len(batch.global_crops) // GLOBAL_CROPS, values.step)
        if config.gram is not None and self.every_patch_is_seen(values):
            anchor = cast(StudentBackbone, self.anchor)
            anchored = anchor_patches(anchor, batch, enlarge=config.gram.enlarge)
            anchored = resize_patches(anchored, grid=grid_of(anchor, batch), target=seen[0].grid)
            terms["gram"] = config.gram.weight_at(values.step) * gram_loss(seen[0].patches, anchored)
        return terms

    @torch.no_grad()
    def update_averages(self, values: ScheduleValues, *, unless: Tensor | None = None) -> None:
        """Move the averages towards the students, and renew the anchor where it is due; after the optimiser's step."""
        super().update_averages(values, unless=unless)
        gram, teacher = self.config.losses.gram, self.anchored()
        if gram is not None and self.anchor is not None and teacher is not None and gram.renews(values.step + 1):
            move_average(self.anchor, teacher, 0.0)


@torch.no_grad()
def view_of(teacher: Network, batch: StepBatch, learnt: dict[tuple[int, int], Learnt], config: StepConfig) -> View:
    """Bottleneck features that a network with heads gives: of class tokens [2B, D], of the patches learnt [M, D].

    Args:
        teacher: Frozen, or an average.
        batch: Whose global crops it sees.
        learnt: Which patches, on each grid that students have; on another than its own they are resampled.
        config: For the precision.
    """
    crops = batch.global_crops
    with autocast(crops.device, compute_dtype(config.precision, crops.device)):
        own = grid_of(teacher.backbone, batch)
        if list(learnt) == [own]:
            (seen,) = teacher.backbone.features([crops], patch_indices=[learnt[own].indices])
            return teacher.project(seen.cls, seen.patches)
        (seen,) = teacher.backbone.features([crops])
        rows = [on_grid(seen, grid).index_select(0, chosen.indices) for grid, chosen in learnt.items()]
        classes, patches = teacher.project(seen.cls, torch.cat(rows).to(seen.cls.dtype))
        return classes, *torch.split(patches, [len(row) for row in rows])


def on_grid(seen: CropFeatures, grid: tuple[int, int]) -> Tensor:
    """All patches on another grid, flattened: [B * N', D]."""
    return resize_patches(seen.patches, grid=seen.grid, target=grid).flatten(0, 1)
