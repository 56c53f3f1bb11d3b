"""What all objectives have in common: students, their moving averages, a teacher's view that becomes what is learnt.

The module knows nothing of parallelism: everything that reads a parameter happens inside ``forward``, or in one of
``Objective.methods``, so that wrappers (DDP, FSDP2) can be put around it or around its blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from dinomill.models.hardware import autocast
from dinomill.models.student import CropFeatures, StudentBackbone
from dinomill.training.averages import move_average
from dinomill.training.compilation import compile_blocks, decide
from dinomill.training.config import StepConfig
from dinomill.training.look import Seen, Who
from dinomill.training.network import Student, frozen_copy
from dinomill.training.precision import compute_dtype
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step_batch import StepBatch

Grid = tuple[int, int]
# What a teacher makes of a batch, and what is learnt of it: of the class tokens, then of the patches of each grid that
# students have, in the order of ``Objective.grids``.
View = tuple[Tensor, ...]
Taught = tuple[Any, ...]


class Learnt(NamedTuple):
    """Which patches of a grid are learnt."""

    indices: Tensor  # [M] int64, into the flattened [2B * N]
    weights: Tensor  # [M] fp32


class Lesson(NamedTuple):
    """What a student learns in a step."""

    batch: StepBatch
    learnt: Learnt
    classes: Any  # what is to be learnt of the class tokens
    patches: Any  # and of those patches


class Objective(nn.Module, ABC):
    """Students, their averages, and the losses between them and what a teacher sees.

    Args:
        students: By name.
        config: Losses, precision.

    Attributes:
        kind: Its name in configurations.
        methods: Names of methods besides ``forward`` that read parameters.
        students: The networks that are trained.
        averages: Their moving averages, by the same names: what is kept.
    """

    kind: ClassVar[str]
    methods: ClassVar[tuple[str, ...]] = ("look", "teacher_view", "assign")

    def __init__(self, students: Mapping[str, Student], config: StepConfig) -> None:
        super().__init__()
        self.config = config
        self.students = nn.ModuleDict(students)
        self.averages = nn.ModuleDict({name: frozen_copy(student) for name, student in students.items()})
        self._compiled = False

    def compile_if_wanted(self, device: torch.device) -> None:
        """Compile blocks and losses where that is configured; when all networks are there."""
        self._compiled = decide(self.config.compile, steps=0, device=device)
        if self._compiled:
            compile_blocks(self)

    # What an objective says of itself.

    @abstractmethod
    def teacher_view(self, batch: StepBatch) -> View:
        """What the teacher makes of a batch's global crops; without gradient."""

    @abstractmethod
    def assign(self, views: Sequence[View], values: ScheduleValues) -> list[Taught]:
        """What is to be learnt of several batches, whose teacher views are judged together; without gradient."""

    @abstractmethod
    def student_losses(self, student: Student, seen: list[CropFeatures], lesson: Lesson) -> dict[str, Tensor]:
        """The weighted losses of a student.

        Args:
            student: Its heads are still to be applied.
            seen: Of the global crops class features and the patches that are learnt, of the local crops (if any) class
                features.
            lesson: What it is to learn.
        """

    @abstractmethod
    def look(self, name: str, images: Tensor, who: Who = "average") -> Seen:
        """What a student's average, the student, or its teacher makes of images [N, C, H, W]."""

    def learnt(self, batch: StepBatch, grid: Grid) -> Learnt:
        """Which patches of the global crops are learnt on a grid: all, or an even share of them."""
        return every_patch(len(batch.global_crops), grid, self.patch_share, batch.global_crops.device)

    patch_share = 1.0

    def assigned_together(self) -> bool:
        """Whether the micro-batches of a step are judged together."""
        return False

    def extra_losses(
        self, student: Student, seen: list[CropFeatures], batch: StepBatch, values: ScheduleValues
    ) -> dict[str, Tensor]:
        """Losses that learn from no teacher's view."""
        del student, seen, batch, values
        return {}

    def every_patch_is_seen(self, values: ScheduleValues) -> bool:
        """Whether the losses look at all patches, and not only at those that are learnt."""
        del values
        return False

    def hides_patches(self) -> bool:
        """Whether the batch's masks are laid over the students' global crops."""
        return False

    def drop_path(self) -> float:
        """Stochastic depth of the students."""
        return 0.0

    def centres(self) -> list[Tensor]:
        """Buffers that the forward pass moves, and that a step which is left out must put back."""
        return []

    # The step.

    def forward(
        self,
        batch: StepBatch,
        values: ScheduleValues,
        generator: torch.Generator | None = None,
        targets: Taught | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch, as they enter the total.

        Args:
            batch: Crops and masks.
            values: This step's schedule values.
            generator: A CPU generator for stochastic depth and position rescaling; the default one if None.
            targets: What is to be learnt, where it was made together with other batches'.

        Returns:
            Scalars by name; ``<student>/…`` if there are several students; and ``total``, their sum, the one to
            differentiate.
        """
        device = batch.global_crops.device
        with autocast(device, compute_dtype(self.config.precision, device)):
            grids = self.grids(batch)
            learnt = {grid: self.learnt(batch, grid) for grid in grids}
            if targets is None:
                (targets,) = self.assign([self.teacher_view(batch)], values)
            losses: dict[str, Tensor] = {}
            for name in self.students:
                student = self.student(name)
                grid = grid_of(student.backbone, batch)
                lesson = Lesson(batch, learnt[grid], targets[0], targets[1 + grids.index(grid)])
                seen, rows = self._see(student.backbone, lesson, values, generator)
                terms = self.student_losses(student, rows, lesson) | self.extra_losses(student, seen, batch, values)
                prefix = f"{name}/" if len(self.students) > 1 else ""
                losses |= {prefix + key: value for key, value in terms.items()}
        losses["total"] = torch.stack(list(losses.values())).sum()
        return losses

    def grids(self, batch: StepBatch) -> list[Grid]:
        """The grids that students have of a batch's global crops, each once."""
        return list(dict.fromkeys(grid_of(self.student(name).backbone, batch) for name in self.students))

    def targets_of_step(self, batches: Sequence[StepBatch], values: ScheduleValues) -> Sequence[Taught | None]:
        """What is to be learnt of all micro-batches of a step, made together as that of one large batch would be.

        None for each where every micro-batch is left to itself.
        """
        if not self.assigned_together():
            return [None] * len(batches)
        views = [self.teacher_view(batch) for batch in batches]
        return self.assign(views, values)

    def _see(
        self,
        backbone: StudentBackbone,
        lesson: Lesson,
        values: ScheduleValues,
        generator: torch.Generator | None,
    ) -> tuple[list[CropFeatures], list[CropFeatures]]:
        """What a student makes of the crops, and the same with those patches only that are learnt."""
        batch = lesson.batch
        crops = [batch.global_crops, batch.local_crops] if len(batch.local_crops) else [batch.global_crops]
        masks = batch.masks if self.hides_patches() else None
        whole = self.every_patch_is_seen(values)
        # While only the heads learn, the backbone runs forward alone, and whole: its features are to be learnt from.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not values.frozen):
            seen = backbone.features(
                crops,
                masks=[masks, None][: len(crops)],
                patch_indices=None if whole else [lesson.learnt.indices, None][: len(crops)],
                drop_path=0.0 if values.frozen else self.drop_path(),
                generator=generator,
                recomputed=self.config.recomputed_blocks,
            )
        if not whole:
            return seen, seen
        first = seen[0]._replace(patches=seen[0].patches.flatten(0, 1).index_select(0, lesson.learnt.indices))
        return seen, [first, *seen[1:]]

    # What is kept.

    def student(self, name: str) -> Student:
        """A student by name."""
        network = self.students[name]
        assert isinstance(network, Student)
        return network

    def average(self, name: str) -> Student:
        """A student's moving average by name."""
        network = self.averages[name]
        assert isinstance(network, Student)
        return network

    @torch.no_grad()
    def update_averages(self, values: ScheduleValues, *, unless: Tensor | None = None) -> None:
        """Move the averages towards the students; after the optimiser's step.

        Args:
            values: Of the step that was made.
            unless: Bool scalar on the device: the step was left out, and nothing moves.
        """
        for name in self.students:
            move_average(self.average(name), self.student(name), values.momentum, unless=unless)

    def train(self, mode: bool = True) -> Self:
        """Set the students' mode; everything else always evaluates."""
        super().train(False)
        self.training = mode
        self.students.train(mode)
        return self


def grid_of(backbone: StudentBackbone, batch: StepBatch) -> Grid:
    """Rows and columns of patches that a backbone has of a batch's global crops."""
    height, width = batch.global_crops.shape[-2:]
    return height // backbone.patch_size, width // backbone.patch_size


def every_patch(crops: int, grid: Grid, share: float, device: torch.device) -> Learnt:
    """All patches of crops, or an even share of them; each crop weighs the same."""
    count = grid[0] * grid[1]
    chosen = max(round(count * share), 1)
    crop = torch.arange(crops, device=device)[:, None]
    # Evenly spaced, and one place further in each crop: over a batch every place is learnt.
    places = (torch.arange(chosen, device=device) * count // chosen + crop) % count
    indices = (crop * count + places).flatten()
    return Learnt(indices, torch.full((len(indices),), 1 / chosen, device=device))
