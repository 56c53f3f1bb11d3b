"""Assignments: students learn to which prototypes of its heads a given teacher assigns class tokens and patches.

The losses of pretraining with a teacher that is frozen: nothing is masked, no branch is skipped, and the patch loss
covers both global crops (Oquab et al. 2023, "DINOv2", section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from dinomill.models.backbones import new_backbone
from dinomill.training.config import DistillationStepConfig, StepConfig
from dinomill.training.given_weights import load_teacher
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who, see
from dinomill.training.losses.prototypes import Prototypes
from dinomill.training.network import Network, prototypes
from dinomill.training.objectives.backbones import drawing, finish_backbones
from dinomill.training.objectives.base import View
from dinomill.training.objectives.by_prototypes import ByPrototypes, view_of
from dinomill.training.step_batch import StepBatch


class Assignments(ByPrototypes):
    """Students of a frozen teacher that has heads; all learn from the same pass of it.

    Args:
        students: By name.
        config: A ``DistillationStepConfig``.
        teacher: The network, of which nothing is trained.
    """

    kind: ClassVar[str] = "assignments"

    def __init__(self, students: Mapping[str, Network], config: StepConfig, teacher: Network) -> None:
        super().__init__(students, config)
        assert isinstance(config, DistillationStepConfig)
        self.patch_share = config.patch_share
        self.frozen_teacher = teacher.requires_grad_(False).eval()
        count = teacher.dino_head.config.prototypes
        self._centre(count, count)

    @classmethod
    def build(cls, job: TrainingJob, device: torch.device) -> Self:
        """The networks of a job."""
        assert job.teacher is not None, "a distillation has a teacher"
        teacher = load_teacher(Path(job.teacher), sha256=job.teacher_sha256, heads_sha256=job.teacher_heads_sha256)
        head, separate = teacher.dino_head.config, teacher.ibot_head is not None
        shape = job.step.head.model_copy(update={"prototypes": head.prototypes})
        with drawing(device):
            students = {
                name: Network(new_backbone(model), shape, separate_heads=separate) for name, model in job.models.items()
            }
        finish_backbones(job, {name: student.backbone for name, student in students.items()}, device)
        students = {name: student.to(device) for name, student in students.items()}
        return cls(students, job.step, teacher.to(device)).to(device)

    @property
    def teacher(self) -> Network:
        """The network that the students learn from."""
        return self.frozen_teacher

    def prototypes(self) -> tuple[Prototypes, Prototypes]:
        """The teacher's."""
        return prototypes(self.teacher.dino_head), prototypes(self.teacher.patch_head)

    def anchored(self) -> nn.Module:
        """The teacher's backbone."""
        return self.teacher.backbone

    @torch.no_grad()
    def teacher_view(self, batch: StepBatch) -> View:
        """Bottleneck features of class tokens [2B, D], and of the patches that are learnt [M, D] on each grid."""
        return view_of(self.teacher, batch, {grid: self.learnt(batch, grid) for grid in self.grids(batch)}, self.config)

    @torch.no_grad()
    def look(self, name: str, images: Tensor, who: Who = "average") -> Seen:
        """What the teacher, a student or its average makes of images."""
        network = self.teacher if who == "teacher" else self.student(name) if who == "student" else self.average(name)
        assert isinstance(network, Network)
        return see(network, images)
