"""What a training process is told: one JSON file, resolved and without secrets.

What the result depends on (``TrainingRecipe``, the data, the teacher) is apart from how it is computed (``Runtime``):
the first decides the work folder and must not change under a checkpoint, the second may.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from dinomill.config import Config
from dinomill.errors import ConfigError, InputError
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.masking import MaskingConfig
from dinomill.models.kinds import AnyModel
from dinomill.storage.atomic import write_text
from dinomill.storage.hashing import hash_json
from dinomill.training.config import (
    AdaptationConfig,
    Address,
    CacheConfig,
    DistillationStepConfig,
    InitialisationConfig,
    MonitorConfig,
    NotFiniteConfig,
    ObjectiveKind,
    OptimizerConfig,
    ParallelConfig,
    PretrainingStepConfig,
    TeachingConfig,
)
from dinomill.training.losses.config import LossConfig
from dinomill.training.schedules import ScheduleConfig, ScheduleKind, Span


class LowResolutionConfig(Config):
    """Low resolution first: the same boxes with fewer pixels cost a fraction (Zhang et al. 2025, FastDINOv2)."""

    until: Span = Field(0.75, description="so long; then the crops are those of `crops`")
    global_size: int = Field(ge=1, description="side of the global crops until then, pixels; a multiple of the patch")
    local_size: int = Field(ge=1, description="side of the local crops until then, pixels; a multiple of the patch")

    def steps(self, steps: int) -> int:
        """How many of the run's steps."""
        return round(self.until * steps) if isinstance(self.until, float) else self.until


class TrainingRecipe(Config):
    """What pretraining and distillation have in common of what decides the result."""

    seed: int = Field(
        default=0, ge=0, description="of the weights, the order of images, crops, masks, stochastic depth"
    )
    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(ge=1, description="images a step, over all processes and micro-batches")
    accumulate: int = Field(
        default=1, ge=1, description="micro-batches of which a step is made, one after the other: memory for time"
    )
    mix: dict[str, PositiveFloat] | None = Field(
        default=None,
        min_length=1,
        description="weights of the dataset's parts by name: in which proportion their images come (a source, a folder "
        "in one, a seed set that is taken whole, `pool`; `others`: the rest); null: every image once an epoch",
    )
    crops: MultiCropConfig = Field(default_factory=MultiCropConfig, description="what is seen of an image")
    low_resolution: LowResolutionConfig | None = Field(
        default=None, description="the first part of the run with fewer pixels a crop; null: all of it as `crops` says"
    )
    masking: MaskingConfig = Field(default_factory=MaskingConfig, description="what is hidden of the global crops")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="values that change with the step")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="AdamW")

    @model_validator(mode="after")
    def _check_low_resolution(self) -> Self:
        low = self.low_resolution
        if low is None:
            return self
        for name in ("global_size", "local_size"):
            if getattr(low, name) > getattr(self.crops, name):
                raise ValueError(
                    f"low_resolution.{name} {getattr(low, name)} is more than crops.{name} {getattr(self.crops, name)}"
                )
        if low.steps(self.steps) > self.steps:
            raise ValueError(f"low_resolution.until {low.until} is longer than the run of {self.steps} steps")
        return self


class Runtime(Config):
    """How a training is computed; none of it changes the result beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one")
    parallel: ParallelConfig = Field(default_factory=ParallelConfig, description="how processes share the work")
    loader: LoaderConfig = Field(default_factory=LoaderConfig, description="how batches are made")
    monitor: MonitorConfig = Field(default_factory=MonitorConfig, description="whether it learns")
    deterministic: bool = Field(
        default=False,
        description="only algorithms that give the same bits every time: slower on a GPU, where some sum in any order; "
        "on a CPU nothing changes",
    )
    log_every: int = Field(
        default=50, ge=1, description="steps between two rows of the curve; the device is waited for"
    )
    checkpoint_every: int = Field(default=1250, ge=1, description="steps between two checkpoints")
    keep: int = Field(default=2, ge=1, description="how many of the newest checkpoints stay, besides the best")
    keep_every: int = Field(default=0, ge=0, description="one checkpoint every so many steps stays for good; 0: none")
    mirror: str | None = Field(
        default=None,
        pattern=r"^s3://",
        description="s3:// prefix that checkpoints are copied to, and fetched from on a machine that has none",
    )
    not_finite: NotFiniteConfig = Field(
        default_factory=NotFiniteConfig, description="what is done when losses or gradients are not finite"
    )
    export: Literal["best", "last"] = Field(
        default="last", description="which weights are handed on; best: by the monitor's measure"
    )


class TrainingJob(Config):
    """Everything that a worker needs."""

    stage: Literal["pretraining", "distillation"] = Field(description="whose job it is; named in messages")
    recipe: TrainingRecipe = Field(description="what decides the result")
    models: dict[str, AnyModel] = Field(min_length=1, description="the students by name; one in pretraining")
    initialisation: dict[str, InitialisationConfig] | None = Field(
        default=None, description="how the students named are drawn; null: all as in the official code"
    )
    step: PretrainingStepConfig | DistillationStepConfig = Field(description="networks' heads, losses, precision")
    runtime: Runtime = Field(description="how it is computed")
    dataset: Path = Field(description="folder of the curated dataset")
    dataset_sha256: str = Field(description="of its manifest")
    teacher: Address | None = Field(default=None, description="where a distillation's teacher lies on this machine")
    teacher_sha256: str | None = Field(default=None, description="of its weights")
    teaching: TeachingConfig | None = Field(
        default=None, description="how students learn from a teacher without heads; null: from its heads' assignments"
    )
    cache: CacheConfig | None = Field(default=None, description="where the teacher's features are kept; null: nowhere")
    teacher_heads_sha256: str | None = Field(default=None, description="of its heads: the students learn from them")
    initial: Address | None = Field(
        default=None, description="weights that the student starts from, with its heads where they fit"
    )
    initial_sha256: str | None = Field(default=None, description="of their content")
    mean: tuple[float, ...] | None = Field(
        default=None, description="what crops are normalised with, per channel; null: the dataset's"
    )
    std: tuple[float, ...] | None = Field(default=None, description="the same")
    adaptation: AdaptationConfig | None = Field(
        default=None, description="how the starting weights are treated; null: as random ones are"
    )
    licence: str | None = Field(default=None, description="of what the networks are made from; null: unknown")
    origin: str | None = Field(default=None, description="what they are made from, for people")
    labelled: Path | None = Field(default=None, description="<split>/<class>/<image> for the monitor's kNN accuracy")
    work_root: Path = Field(description="the stage's work folder; the job has one of its own in it")

    def identity(self) -> dict[str, Any]:
        """Everything on which the result depends, as plain values. A checkpoint is refused when it differs."""
        kept = {"recipe", "models", "dataset_sha256", "teacher_sha256", "initial_sha256"}
        # Compiling and recomputing change rounding at most; precision changes more.
        step = self.step.model_dump(mode="json", exclude={"compile", "recomputed_blocks"})
        # What is off is left out, so that a new kind of training leaves the folders of the others where they are.
        optional = self.model_dump(
            mode="json", include={"mean", "std", "adaptation", "initialisation", "teaching"}, exclude_none=True
        )
        values = {**self.model_dump(mode="json", include=kept), "step": step, **optional}
        if self.recipe.mix is None:
            del values["recipe"]["mix"]
        if self.recipe.low_resolution is None:
            del values["recipe"]["low_resolution"]
        if self.step.losses.sigreg is None:
            del values["step"]["losses"]["sigreg"]
        if self.recipe.accumulate == 1:
            del values["recipe"]["accumulate"], values["step"]["centering"]["over"]
        if self.can_be_prolonged:
            del values["recipe"]["steps"]
        if self.teacher_heads_sha256 is not None:
            values["teacher_heads_sha256"] = self.teacher_heads_sha256
        # A knob for memory, of which no number depends; at its default, so that folders stay where they are.
        values["step"]["losses"]["keep_mib"] = LossConfig().keep_mib
        return values

    def result_identity(self) -> dict[str, Any]:
        """What the finished weights depend on: the identity, and the length of a run that can have any."""
        identity = self.identity()
        return {**identity, "steps": self.recipe.steps} if self.can_be_prolonged else identity

    def told(self, student: str) -> dict[str, Any]:
        """How a student was trained, as plain values for its card: what its result depends on, without hashes."""
        kept = self.result_identity()
        names = ("recipe", "step", "teaching", "adaptation")
        found = {name: kept[name] for name in names if name in kept}
        found["recipe"] = {**found["recipe"], "steps": self.recipe.steps}
        others = [name for name in self.models if name != student]
        drawn = (self.initialisation or {}).get(student)
        return {
            "objective": self.objective,
            "model": self.models[student].model_dump(mode="json"),
            **found,
            **({} if drawn is None else {"initialisation": drawn.model_dump(mode="json")}),
            **({"together": others} if others else {}),
        }

    @property
    def can_be_prolonged(self) -> bool:
        """Whether the first steps are the same whatever the length: constant schedules, and no share of the run."""
        schedule, adaptation = self.recipe.schedule, self.adaptation
        spans = [schedule.warmup, schedule.frozen_last_layer, schedule.teacher_temperature_warmup]
        if self.recipe.low_resolution is not None:
            spans.append(self.recipe.low_resolution.until)
        if adaptation is not None:
            spans += [adaptation.frozen, adaptation.ramp]
        return schedule.kind is ScheduleKind.CONSTANT and not any(isinstance(span, float) and span for span in spans)

    @property
    def objective(self) -> ObjectiveKind:
        """What is learnt."""
        if self.teaching is not None:
            return self.teaching.objective
        return "pretraining" if self.teacher is None else "assignments"

    @property
    def work(self) -> Path:
        """The job's own work folder: checkpoints, curve, messages."""
        return self.work_root / hash_json(self.identity())[:16]

    @property
    def exported(self) -> Path:
        """Where the finished weights lie in the work folder, until the stage takes them over."""
        return self.work / f"exported-{self.runtime.export}"

    @property
    def patch_size(self) -> int:
        """The patch size of the first student: that of the monitor's and the loader's grid of patches."""
        return next(iter(self.models.values())).patch_size

    def batch_per_process(self, processes: int) -> int:
        """Images of a micro-batch for each of so many processes; without accumulation, of a step.

        Raises:
            ConfigError: When they cannot be shared evenly.
        """
        shares = processes * self.recipe.accumulate
        if self.recipe.batch_size % shares:
            more = f" times {self.recipe.accumulate} micro-batches" if self.recipe.accumulate > 1 else ""
            raise ConfigError(
                f"{self.stage}.batch_size is no multiple of the number of processes{more}.",
                found=f"{self.recipe.batch_size} images for {processes} processes{more}",
                action=f"set it to {max(self.recipe.batch_size // shares, 1) * shares}",
            )
        return self.recipe.batch_size // shares

    def save(self) -> Path:
        """Write ``<work>/job.json`` and return its path."""
        path = self.work / "job.json"
        write_text(path, self.model_dump_json(indent=2) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> TrainingJob:
        """Read a job.

        Raises:
            InputError: When there is no such file.
            ConfigError: When it is not valid.
        """
        import json

        if not path.is_file():
            raise InputError(f"There is no job file {path}.", action="the stages write it: run the stage instead")
        return cls.parse(json.loads(path.read_text(encoding="utf-8")), where=str(path))
