"""Pretraining: the teacher is the moving average of the one student, and patches are hidden from the student only.

Oquab et al. 2023, "DINOv2", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from dinomill.models import VisionTransformer, VisionTransformerConfig
from dinomill.training.config import PretrainingStepConfig, StepConfig
from dinomill.training.given_weights import start_heads_from, starting_backbone
from dinomill.training.initialisation import initialise
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who, see
from dinomill.training.lora import add_lora
from dinomill.training.losses.prototypes import Prototypes
from dinomill.training.network import Network, prototypes
from dinomill.training.objectives.backbones import drawing, freeze_unused
from dinomill.training.objectives.base import Grid, Learnt, View
from dinomill.training.objectives.by_prototypes import ByPrototypes, view_of
from dinomill.training.step_batch import StepBatch


class Pretraining(ByPrototypes):
    """One student that learns from its own average.

    Args:
        students: The one, by its name.
        config: A ``PretrainingStepConfig``.
    """

    kind: ClassVar[str] = "pretraining"

    def __init__(self, students: Mapping[str, Network], config: StepConfig) -> None:
        assert len(students) == 1, "pretraining has one student"
        super().__init__(students, config)
        count = self.teacher.dino_head.config.prototypes
        self._centre(count, count)

    @classmethod
    def build(cls, job: TrainingJob, device: torch.device) -> Self:
        """The networks of a job, drawn or from the weights that it names."""
        drawn, step = device.type != "meta", job.step
        ((name, model),) = job.models.items()
        assert isinstance(model, VisionTransformerConfig), "other families are students of a distillation alone"
        with drawing(device):
            backbone = VisionTransformer(model)
            network = Network(backbone, step.head, separate_heads=step.separate_heads)
        if drawn:
            initialise(backbone, job, name)
        if drawn and job.initial is not None:
            backbone.load_state_dict(starting_backbone(model, job.initial).state_dict())
            start_heads_from(network, job.initial)
        freeze_unused(backbone, job)
        module = cls({"student": network.to(device)}, step).to(device)
        if job.adaptation is not None and job.adaptation.lora is not None:
            # After the averages were made: they are plain, and follow the sums.
            with device:
                add_lora(backbone, job.adaptation.lora)
        return module

    @property
    def teacher(self) -> Network:
        """The student's average."""
        network = self.average(next(iter(self.averages)))
        assert isinstance(network, Network)
        return network

    def prototypes(self) -> tuple[Prototypes, Prototypes]:
        """The average's."""
        return prototypes(self.teacher.dino_head), prototypes(self.teacher.patch_head)

    def anchored(self) -> nn.Module:
        """The average's backbone."""
        return self.teacher.backbone

    def learnt(self, batch: StepBatch, grid: Grid) -> Learnt:
        """The masked patches."""
        del grid
        return Learnt(batch.mask_indices, batch.mask_weights)

    def hides_patches(self) -> bool:
        """From the student, as the batch says."""
        return True

    def drop_path(self) -> float:
        """As configured."""
        assert isinstance(self.config, PretrainingStepConfig)
        return self.config.drop_path

    @torch.no_grad()
    def teacher_view(self, batch: StepBatch) -> View:
        """Bottleneck features of class tokens [2B, D] and of the masked patches [M, D], which the teacher sees."""
        return view_of(self.teacher, batch, {grid: self.learnt(batch, grid) for grid in self.grids(batch)}, self.config)

    @torch.no_grad()
    def look(self, name: str, images: Tensor, who: Who = "average") -> Seen:
        """What the average, which is the teacher too, or the student makes of images."""
        network = self.student(name) if who == "student" else self.average(name)
        assert isinstance(network, Network)
        return see(network, images)
