"""Values that change from step to step: learning rate, weight decay, EMA momentum, teacher temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dinomill.config import Config
from dinomill.errors import ConfigError

if TYPE_CHECKING:
    from dinomill.training.config import AdaptationConfig

Span = Annotated[
    # Strict: 1.0 is meant as the whole run, and would be one step.
    Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, lt=1)],
    Field(description="A whole number is steps; a number below 1 is a share of the run."),
]


class ScheduleKind(StrEnum):
    """How the values run after their warmup."""

    COSINE = "cosine"  # the DINOv2 recipe: the run's length is part of the recipe
    CONSTANT = "constant"  # the DINOv3 recipe: any length, can be prolonged


class LearningRateScaling(StrEnum):
    """How the learning rate follows the global batch."""

    SQUARE_ROOT = "square_root"  # lr · √(batch / reference_batch), the DINOv2 recipe
    LINEAR = "linear"  # lr · batch / reference_batch
    NONE = "none"


class ScheduleConfig(Config):
    """The schedules of a run. The defaults are the short DINOv2 recipe, written as shares of the run."""

    kind: ScheduleKind = Field(ScheduleKind.COSINE, description="cosine to the end value, or constant after warmup")
    learning_rate: float = Field(4e-3, gt=0, description="Peak learning rate at `reference_batch` images")
    learning_rate_end: float = Field(1e-6, ge=0, description="Learning rate at the end of a cosine")
    scaling: LearningRateScaling = Field(
        LearningRateScaling.SQUARE_ROOT, description="How the peak follows the global batch"
    )
    reference_batch: int = Field(1024, ge=1, description="Global batch (images) for which `learning_rate` is stated")
    warmup: Span = Field(0.1, description="Linear warmup of the learning rate, from 0")
    frozen_last_layer: Span = Field(0.01, description="The prototypes' learning rate is 0 for this long")
    weight_decay: float = Field(0.04, ge=0, description="Weight decay at the start")
    weight_decay_end: float = Field(0.4, ge=0, description="Weight decay at the end of a cosine")
    momentum: float = Field(0.992, ge=0, le=1, description="EMA momentum of the teacher at the start")
    momentum_end: float = Field(1.0, ge=0, le=1, description="EMA momentum at the end of a cosine")
    teacher_temperature_start: float = Field(0.04, gt=0, description="Teacher temperature at the start")
    teacher_temperature: float = Field(0.07, gt=0, description="Teacher temperature after its warmup")
    teacher_temperature_warmup: Span = Field(0.3, description="Linear warmup of the teacher temperature")


@dataclass(frozen=True)
class ScheduleValues:
    """The values of one step, counted from 0; plain numbers, so that setting them never waits for a device."""

    step: int
    learning_rate: float
    last_layer_learning_rate: float
    weight_decay: float
    momentum: float
    teacher_temperature: float
    backbone_rate: float | None = None  # factor on the backbone's learning rate; 0: frozen; None: as everything else

    @property
    def frozen(self) -> bool:
        """Whether no gradient is to pass through the backbone."""
        return self.backbone_rate == 0


@dataclass(frozen=True)
class Curve:
    """Linear warmup from `start` to `peak`, then a half cosine to `end`; `end` for ever after.

    Args:
        start: Value at step 0 if there is a warmup.
        peak: Value at the last warmup step.
        end: Value that the cosine runs to; equal to `peak` for a constant curve.
        warmup: Steps of warmup; the first has `start`, the last has `peak`, as in the official code.
        total: Steps in all; None for a curve that has no end.
    """

    start: float
    peak: float
    end: float
    warmup: int
    total: int | None

    def __call__(self, step: int) -> float:
        """The value at a step, counted from 0."""
        if step < self.warmup:
            share = step / (self.warmup - 1) if self.warmup > 1 else 0.0
            return self.start + (self.peak - self.start) * share
        if self.total is None or self.peak == self.end:
            return self.end
        if step >= self.total:
            return self.end
        turn = math.pi * (step - self.warmup) / (self.total - self.warmup)
        return self.end + 0.5 * (self.peak - self.end) * (1 + math.cos(turn))


class Schedules:
    """Every schedule of a run as a pure function of the step.

    Args:
        config: The schedules' configuration.
        steps: Length of the run in optimiser steps.
        batch: Images a step over all ranks and accumulation.
        adaptation: How long the backbone is frozen, and how its rate rises; None for a backbone like the heads.

    Raises:
        ConfigError: A warmup longer than the run.
    """

    def __init__(
        self, config: ScheduleConfig, *, steps: int, batch: int, adaptation: AdaptationConfig | None = None
    ) -> None:
        self.config = config
        self.steps = steps
        constant = config.kind is ScheduleKind.CONSTANT
        total = None if constant else steps
        peak = peak_learning_rate(config, batch)
        warmup = self._steps("warmup", config.warmup)

        def cosine(start: float, end: float) -> Curve:
            return Curve(start, start, start if constant else end, warmup=0, total=total)

        self.learning_rate = Curve(0.0, peak, peak if constant else config.learning_rate_end, warmup, total)
        self.frozen_last_layer = self._steps("frozen_last_layer", config.frozen_last_layer)
        self.weight_decay = cosine(config.weight_decay, config.weight_decay_end)
        self.momentum = cosine(config.momentum, config.momentum_end)
        self.teacher_temperature = Curve(
            config.teacher_temperature_start,
            config.teacher_temperature,
            config.teacher_temperature,
            self._steps("teacher_temperature_warmup", config.teacher_temperature_warmup),
            None,
        )
        self.adaptation = adaptation
        if adaptation is not None:
            self.frozen = self._steps("adaptation.frozen", adaptation.frozen)
            self.ramp = self._steps("adaptation.ramp", adaptation.ramp)

    def _backbone_rate(self, step: int) -> float | None:
        if self.adaptation is None:
            return None
        if step < self.frozen:
            return 0.0
        risen = (step - self.frozen + 1) / self.ramp if self.ramp else 1.0
        return self.adaptation.backbone_rate * min(risen, 1.0)

    def _steps(self, key: str, span: int | float) -> int:
        if isinstance(span, float) and span > 0:
            return round(span * self.steps)
        if span > self.steps:
            raise ConfigError(
                f"`{key}` is longer than the run",
                found=f"{key}: {span} steps of {self.steps}",
                action=f"lower `{key}`, or write it as a share of the run, such as 0.1",
            )
        return int(span)

    def at(self, step: int) -> ScheduleValues:
        """The values of a step, counted from 0."""
        learning_rate = self.learning_rate(step)
        return ScheduleValues(
            step=step,
            learning_rate=learning_rate,
            last_layer_learning_rate=0.0 if step < self.frozen_last_layer else learning_rate,
            weight_decay=self.weight_decay(step),
            momentum=self.momentum(step),
            teacher_temperature=self.teacher_temperature(step),
            backbone_rate=self._backbone_rate(step),
        )


def peak_learning_rate(config: ScheduleConfig, batch: int) -> float:
    """The learning rate after warmup for a global batch (DINOv2: base · √(batch / 1024))."""
    ratio = batch / config.reference_batch
    factor = {
        LearningRateScaling.SQUARE_ROOT: math.sqrt(ratio),
        LearningRateScaling.LINEAR: ratio,
        LearningRateScaling.NONE: 1.0,
    }[config.scaling]
    return config.learning_rate * factor
