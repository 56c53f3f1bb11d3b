"""Clusters: the centres of a teacher's own features are the prototypes that it has no head for.

Class and patch features of the curated images are whitened (mean away, every direction the same spread) and clustered
by spherical k-means. What a teacher sees in a crop, whitened, is its bottleneck, the centres are its last layer with a
gain of 1: from there on everything is as for a teacher with heads. The students' heads end at the same width, and their
own prototypes start as these centres.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from dinomill.models import HeadConfig
from dinomill.models.backbones import Backbone
from dinomill.training.config import TeachingConfig
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who, nearest_prototype, see
from dinomill.training.losses.prototypes import Prototypes
from dinomill.training.network import Network
from dinomill.training.objectives.by_prototypes import ByPrototypes
from dinomill.training.objectives.fitted import PARTS, whiten
from dinomill.training.objectives.of_features import OfFeatures


class Clusters(OfFeatures, ByPrototypes):
    """Students of a teacher without heads; each has heads of its own for class tokens and patches."""

    kind: ClassVar[str] = "clusters"

    @classmethod
    def new_student(
        cls, backbone: Backbone, job: TrainingJob, teaching: TeachingConfig, tensors: Mapping[str, Tensor]
    ) -> Network:
        """Heads that end at the whitened width, with the centres as the first prototypes.

        What such a student has to find is the way to the whitened features.
        """
        assert teaching.prototypes is not None and teaching.whitened_dim is not None
        shape = HeadConfig(
            hidden_dim=job.step.head.hidden_dim,
            bottleneck_dim=teaching.whitened_dim,
            prototypes=teaching.prototypes,
        )
        student = Network(backbone, shape, separate_heads=True)
        if not student.dino_head.last_layer.weight_v.is_meta:
            with torch.no_grad():
                student.dino_head.last_layer.weight_v.copy_(tensors["classes.centres"])
                student.patch_head.last_layer.weight_v.copy_(tensors["patches.centres"])
        return student

    def _ready(self) -> None:
        count = len(self._fitted("classes", "centres"))
        self._centre(count, count)

    def prototypes(self) -> tuple[Prototypes, Prototypes]:
        """The centres, with a gain of 1."""
        of_classes, of_patches = (self._fitted(part, "centres") for part in PARTS)
        return _plain(of_classes), _plain(of_patches)

    def wanted(self, part: str, rows: Tensor) -> Tensor:
        """Whitened, of length one."""
        return whiten(rows, self._fitted(part, "mean"), self._fitted(part, "matrix"))

    @torch.no_grad()
    def look(self, name: str, images: Tensor, who: Who = "average") -> Seen:
        """What the teacher, a student or its average makes of images."""
        if who == "teacher" and self._teacher_looks:
            seen = self._teacher.features(images)
            nearest = nearest_prototype(self.wanted("classes", seen.cls), self.prototypes()[0])
            return Seen(seen.cls, seen.cls, nearest, seen.patches)
        network = self.student(name) if who == "student" else self.average(name)
        assert isinstance(network, Network)
        return see(network, images)


def _plain(centres: Tensor) -> Prototypes:
    return Prototypes(centres, centres.new_ones(len(centres), 1))
