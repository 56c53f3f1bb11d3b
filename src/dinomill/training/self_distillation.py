"""One step of self-distillation: students learn what a teacher sees in other crops, and in patches hidden from them.

Pretraining: the teacher is the moving average of the one student (Oquab et al. 2023, "DINOv2", section 4).
Distillation: the teacher is given and frozen; one or several students learn from the same teacher pass, nothing is
masked, and a moving average of each student is what is kept (section 5).

The module knows nothing of parallelism: everything that reads a parameter happens inside ``forward``, so that wrappers
(DDP, FSDP2) can be put around it or around its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinomill.models import DropPath, VisionTransformer, draw_drop_path
from dinomill.models.hardware import autocast
from dinomill.training.averages import move_average
from dinomill.training.centering import Centering, Targets
from dinomill.training.compilation import compile_blocks, decide
from dinomill.training.config import (
    DistillationStepConfig,
    PretrainingStepConfig,
    StepConfig,
)
from dinomill.training.look import Seen, Who, see
from dinomill.training.losses.cross_entropy import CrossEntropyOptions
from dinomill.training.losses.dino import GLOBAL_CROPS, dino_losses
from dinomill.training.losses.gram import anchor_patches, gram_loss
from dinomill.training.losses.ibot import ibot_loss
from dinomill.training.losses.koleo import koleo_loss
from dinomill.training.losses.sigreg import sigreg_terms
from dinomill.training.network import Network, frozen_copy, prototypes
from dinomill.training.precision import compute_dtype
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step_batch import StepBatch


@dataclass(frozen=True)
class Lesson:
    """What all students of a step learn."""

    batch: StepBatch
    patches: Tensor  # [M] int64: the patches in the iBOT loss, into the flattened [2B * N]
    weights: Tensor  # [M] of those patches
    dino: Targets  # of the class tokens
    ibot: Targets  # of those patches


class SelfDistillation(nn.Module):
    """Students, their averages, a teacher, and the losses between them.

    Args:
        students: By name; one in pretraining.
        config: A ``PretrainingStepConfig``, or a ``DistillationStepConfig``.
        teacher: The frozen teacher of a distillation; None in pretraining, where it is the student's average.

    Attributes:
        students: The networks that are trained.
        averages: Their moving averages, by the same names: what is kept.
    """

    def __init__(self, students: Mapping[str, Network], config: StepConfig, teacher: Network | None = None) -> None:
        super().__init__()
        assert (teacher is None) == isinstance(config, PretrainingStepConfig), "a distillation has a teacher"
        assert teacher is not None or len(students) == 1, "pretraining has one student"
        self.config = config
        self.students = nn.ModuleDict(students)
        self.averages = nn.ModuleDict({name: frozen_copy(student) for name, student in students.items()})
        self.frozen_teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        count = self.teacher.dino_head.config.prototypes
        self.dino_centering = Centering(config.centering, count)
        self.ibot_centering = Centering(config.centering, count)
        gram = config.losses.gram
        self.anchor = None if gram is None else frozen_copy(self.teacher.backbone)
        self._compiled = decide(config.compile, steps=0, device=self.dino_centering.center.device)
        if self._compiled:
            compile_blocks(self)

    @property
    def teacher(self) -> Network:
        """The network that the students learn from."""
        if self.frozen_teacher is not None:
            return self.frozen_teacher
        return self.average(next(iter(self.averages)))

    def student(self, name: str) -> Network:
        """A student by name."""
        network = self.students[name]
        assert isinstance(network, Network)
        return network

    def average(self, name: str) -> Network:
        """A student's moving average by name."""
        network = self.averages[name]
        assert isinstance(network, Network)
        return network

    @torch.no_grad()
    def look(self, name: str, images: Tensor, who: Who = "average") -> Seen:
        """What a student's average, the student, or its teacher makes of images [N, C, H, W]."""
        if who == "teacher":
            return see(self.teacher, images)
        return see(self.student(name) if who == "student" else self.average(name), images)

    def forward(
        self,
        batch: StepBatch,
        values: ScheduleValues,
        generator: torch.Generator | None = None,
        targets: tuple[Targets, Targets] | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch, as they enter the total.

        Args:
            batch: Crops and masks.
            values: This step's schedule values.
            generator: A CPU generator for stochastic depth and position rescaling; the default one if None.
            targets: Of class tokens and patches, where they were made together with other batches'.

        Returns:
            Scalars ``dino_local``, ``dino_global``, ``ibot``, ``koleo`` (``sigreg``, ``gram``); ``<name>/…`` if there
            are several students; and ``total``, their sum, the one to differentiate.
        """
        device = batch.global_crops.device
        dtype = compute_dtype(self.config.precision, device)
        with autocast(device, dtype):
            patches, weights = self._learnt_patches(batch)
            if targets is None:
                view = self.teacher_view(batch)
                targets = self._assign(*view, values.teacher_temperature, dtype)
            lesson = Lesson(batch, patches, weights, *targets)
            losses: dict[str, Tensor] = {}
            for name in self.students:
                terms = self._student_losses(self.student(name), lesson, values, generator)
                prefix = f"{name}/" if len(self.students) > 1 else ""
                losses |= {prefix + key: value for key, value in terms.items()}
        losses["total"] = torch.stack(list(losses.values())).sum()
        return losses

    def targets_of_step(
        self, batches: Sequence[StepBatch], values: ScheduleValues
    ) -> Sequence[tuple[Targets, Targets] | None]:
        """Targets of all micro-batches of a step, made together as those of one large batch would be.

        None for each where ``centering.over`` leaves every micro-batch to itself.
        """
        if self.config.centering.over == "micro_batch":
            return [None] * len(batches)
        views = [self.teacher_view(batch) for batch in batches]
        return self.assign(views, values)

    @torch.no_grad()
    def teacher_view(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """The teacher's bottleneck features of class tokens [2B, D] and of the patches that are learnt [M, D]."""
        device = batch.global_crops.device
        dtype = compute_dtype(self.config.precision, device)
        patches, _ = self._learnt_patches(batch)
        with autocast(device, dtype):
            tokens = self.teacher.backbone.forward_packed([batch.global_crops], patch_indices=[patches])[0]
            return self.teacher.project(tokens["x_norm_clstoken"], tokens["x_norm_patchtokens"])

    @torch.no_grad()
    def assign(self, views: Sequence[tuple[Tensor, Tensor]], values: ScheduleValues) -> list[tuple[Targets, Targets]]:
        """Targets of several batches' teacher views together, batch by batch."""
        dtype = compute_dtype(self.config.precision, views[0][0].device)
        classes, patches = ([view[part] for view in views] for part in (0, 1))
        dino, ibot = self._assign(torch.cat(classes), torch.cat(patches), values.teacher_temperature, dtype)
        return list(zip(dino.split([len(c) for c in classes]), ibot.split([len(p) for p in patches]), strict=True))

    @torch.no_grad()
    def _assign(
        self, cls_features: Tensor, patch_features: Tensor, temperature: float, dtype: torch.dtype
    ) -> tuple[Targets, Targets]:
        teacher = self.teacher
        how = {"temperature": temperature, "dtype": dtype, "compiled": self._compiled}
        dino: Targets = self.dino_centering(cls_features, prototypes(teacher.dino_head), **how)
        ibot: Targets = self.ibot_centering(patch_features, prototypes(teacher.patch_head), **how)
        return dino, ibot

    def _student_losses(
        self, student: Network, lesson: Lesson, values: ScheduleValues, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        config, batch = self.config.losses, lesson.batch
        # Only the Gram loss looks at all patches; without it the last block's feed-forward layer can leave most out.
        gram = config.gram if config.gram is not None and values.step >= config.gram.start else None
        outputs = self._see(student.backbone, lesson, values, generator, every_patch=gram is not None)
        class_tokens = [output["x_norm_clstoken"] for output in outputs]
        all_patches = outputs[0]["x_norm_patchtokens"]
        rows = all_patches if gram is None else all_patches.flatten(0, 1).index_select(0, lesson.patches)
        cls_features, patch_features = student.project(torch.cat(class_tokens), rows)
        dtype = compute_dtype(self.config.precision, batch.global_crops.device)
        options = CrossEntropyOptions(config.student_temperature, dtype, config.keep_mib * 2**20, self._compiled)
        images = batch.global_crops.shape[0]
        dino = dino_losses(
            cls_features, prototypes(student.dino_head), lesson.dino, batch=images // GLOBAL_CROPS, options=options
        )
        head = prototypes(student.patch_head)
        ibot = ibot_loss(patch_features, head, lesson.ibot, lesson.weights, images=images, options=options)
        koleo = torch.stack(
            [koleo_loss(crop, group_size=config.koleo_group) for crop in class_tokens[0].chunk(GLOBAL_CROPS)]
        ).sum()
        terms = {
            "dino_local": config.dino_weight * dino.local,
            "dino_global": config.dino_weight * dino.globals,
            "ibot": config.ibot_weight * ibot,
            "koleo": config.koleo_weight * koleo,
        }
        if config.sigreg is not None:
            terms |= sigreg_terms(config.sigreg, class_tokens, images // GLOBAL_CROPS, values.step)
        if gram is not None:
            assert self.anchor is not None
            anchored = anchor_patches(self.anchor, batch, enlarge=gram.enlarge)
            terms["gram"] = gram.weight_at(values.step) * gram_loss(all_patches, anchored)
        return terms

    def _see(
        self,
        backbone: VisionTransformer,
        lesson: Lesson,
        values: ScheduleValues,
        generator: torch.Generator | None,
        *,
        every_patch: bool,
    ) -> list[dict[str, Tensor]]:
        """What a student makes of the crops; of the global ones' patches all, or only those that are learnt."""
        batch = lesson.batch
        crops = [batch.global_crops, batch.local_crops] if len(batch.local_crops) else [batch.global_crops]
        masks = batch.masks if self.frozen_teacher is None else None
        # While only the heads learn, the backbone runs forward alone, and whole: its features are to be learnt from.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not values.frozen):
            return backbone.forward_packed(
                crops,
                [masks, None][: len(crops)],
                patch_indices=None if every_patch else [lesson.patches, None][: len(crops)],
                drop_path=None if values.frozen else self._draw_drop_path(backbone, crops, generator),
                rope_scales=[backbone.draw_rope_scale(generator) for _ in crops],
                checkpoint=self._recomputed(backbone),
            )

    def _draw_drop_path(
        self, backbone: VisionTransformer, crops: list[Tensor], generator: torch.Generator | None
    ) -> DropPath | None:
        config = self.config
        if not isinstance(config, PretrainingStepConfig):
            return None
        layout = backbone.layout([(crop.shape[0], crop.shape[-2], crop.shape[-1]) for crop in crops])
        return draw_drop_path(layout, backbone.n_blocks, config.drop_path, generator=generator, device=crops[0].device)

    def _recomputed(self, backbone: VisionTransformer) -> list[bool]:
        count = round(self.config.recomputed_blocks * backbone.n_blocks)
        return [index < count for index in range(backbone.n_blocks)]

    def _learnt_patches(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """Indices [M] and weights [M] of the patches in the iBOT loss: the masked ones, or where none are, all."""
        if self.frozen_teacher is None:
            return batch.mask_indices, batch.mask_weights
        return self._every_patch(batch.masks)

    def _every_patch(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and weights for the iBOT loss where nothing is masked: all patches, or an even share of them."""
        assert isinstance(self.config, DistillationStepConfig)
        crops, count = masks.shape
        chosen = max(round(count * self.config.patch_share), 1)
        crop = torch.arange(crops, device=masks.device)[:, None]
        # Evenly spaced, and one place further in each crop: over a batch every place is learnt.
        places = (torch.arange(chosen, device=masks.device) * count // chosen + crop) % count
        indices = (crop * count + places).flatten()
        return indices, torch.full((len(indices),), 1 / chosen, device=masks.device)

    @torch.no_grad()
    def update_averages(self, values: ScheduleValues, *, unless: Tensor | None = None) -> None:
        """Move the averages towards the students, and renew the anchor where it is due; after the optimiser's step.

        Args:
            values: Of the step that was made.
            unless: Bool scalar on the device: the step was left out, and nothing moves.
        """
        for name in self.students:
            move_average(self.average(name), self.student(name), values.momentum, unless=unless)
        gram = self.config.losses.gram
        if gram is not None and self.anchor is not None and gram.renews(values.step + 1):
            move_average(self.anchor, self.teacher.backbone, 0.0)

    def train(self, mode: bool = True) -> SelfDistillation:
        """Set the students' mode; teacher, averages and anchor always evaluate."""
        super().train(False)
        self.training = mode
        self.students.train(mode)
        return self
