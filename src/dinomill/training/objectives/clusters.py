"""Clusters: the centres of a teacher's own features are the prototypes that it has no head for.

Class and patch features of the curated images are whitened (mean away, every direction the same spread) and clustered
by spherical k-means. What a teacher sees in a crop, whitened, is its bottleneck, the centres are its last layer with a
gain of 1: from there on everything is as for a teacher with heads. The students' heads end at the same width, and their
own prototypes start as these centres.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from dinomill.models import HeadConfig
from dinomill.models.backbones import new_backbone
from dinomill.models.hardware import autocast
from dinomill.models.student import CropFeatures
from dinomill.training.config import DistillationStepConfig, StepConfig
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who, nearest_prototype, see
from dinomill.training.losses.prototypes import Prototypes
from dinomill.training.network import Network
from dinomill.training.objectives.backbones import drawing, finish_backbones
from dinomill.training.objectives.base import View
from dinomill.training.objectives.by_prototypes import ByPrototypes, on_grid
from dinomill.training.objectives.fitted import PARTS, fitted, whiten
from dinomill.training.precision import compute_dtype
from dinomill.training.step_batch import StepBatch


class Clusters(ByPrototypes):
    """Students of a teacher without heads.

    Args:
        students: By name; each with heads of its own for class tokens and patches.
        config: A ``DistillationStepConfig``.
        teacher: What sees the crops.
        tensors: Of ``fitted``.
        teacher_looks: Whether the monitor may ask the teacher, or only the average.
    """

    kind: ClassVar[str] = "clusters"

    def __init__(
        self,
        students: Mapping[str, Network],
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
        count = len(tensors["classes.centres"])
        self._centre(count, count)

    @classmethod
    def build(cls, job: TrainingJob, device: torch.device) -> Self:
        """The networks of a job; what is made of the teacher's features is read, or made now."""
        teaching = job.teaching
        assert teaching is not None and teaching.prototypes is not None and teaching.whitened_dim is not None
        teacher = GivenTeacher.of(job)
        tensors = fitted(job, teacher, device)
        shape = HeadConfig(
            hidden_dim=job.step.head.hidden_dim,
            bottleneck_dim=teaching.whitened_dim,
            prototypes=teaching.prototypes,
        )
        with drawing(device):
            students = {
                name: Network(new_backbone(model), shape, separate_heads=True) for name, model in job.models.items()
            }
        finish_backbones(job, {name: student.backbone for name, student in students.items()}, device)
        for student in students.values():
            _start_from(student, tensors)
        students = {name: student.to(device) for name, student in students.items()}
        module = cls(students, job.step, teacher, tensors, teacher_looks=teaching.views is None)
        return module.to(device)

    def prototypes(self) -> tuple[Prototypes, Prototypes]:
        """The centres, with a gain of 1."""
        of_classes, of_patches = (self.frozen_teacher.get_buffer(f"{part}_centres") for part in PARTS)
        return _plain(of_classes), _plain(of_patches)

    @torch.no_grad()
    def teacher_view(self, batch: StepBatch) -> View:
        """Whitened features: of class tokens [2B, W], and of the patches that are learnt [M, W] on each grid."""
        device = batch.global_crops.device
        with autocast(device, compute_dtype(self.config.precision, device)):
            seen = self._teacher.see(batch)
        with autocast(device):
            patches = [
                self._whitened("patches", on_grid(seen, grid).index_select(0, self.learnt(batch, grid).indices))
                for grid in self.grids(batch)
            ]
            return self._whitened("classes", seen.cls), *patches

    @torch.no_grad()
    def look(self, name: str, images: Tensor, who: Who = "average") -> Seen:
        """What the teacher, a student or its average makes of images."""
        if who == "teacher" and self._teacher_looks:
            seen: CropFeatures = self._teacher.features(images)
            nearest = nearest_prototype(self._whitened("classes", seen.cls), self.prototypes()[0])
            return Seen(seen.cls, seen.cls, nearest, seen.patches)
        network = self.student(name) if who == "student" else self.average(name)
        assert isinstance(network, Network)
        return see(network, images)

    def _whitened(self, part: str, rows: Tensor) -> Tensor:
        mean, matrix = (self.frozen_teacher.get_buffer(f"{part}_{name}") for name in ("mean", "matrix"))
        return whiten(rows, mean, matrix)


def as_buffers(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module that carries tensors to where the module lives; as a teacher's, they are in no checkpoint."""
    holder = nn.Module()
    for name, tensor in tensors.items():
        holder.register_buffer(name.replace(".", "_"), tensor.clone())
    return holder


def _plain(centres: Tensor) -> Prototypes:
    return Prototypes(centres, centres.new_ones(len(centres), 1))


@torch.no_grad()
def _start_from(student: Network, tensors: Mapping[str, Tensor]) -> None:
    """The student's prototypes start as the centres: what it has to find is the way to the whitened features."""
    if student.dino_head.last_layer.weight_v.is_meta:
        return
    student.dino_head.last_layer.weight_v.copy_(tensors["classes.centres"])
    student.patch_head.last_layer.weight_v.copy_(tensors["patches.centres"])
