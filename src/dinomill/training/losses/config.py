"""Weights and constants of the losses."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.errors import ConfigError


class GramConfig(Config):
    """Gram anchoring (DINOv3, section 4), against the decay of dense features on long runs."""

    weight: float = Field(2.0, gt=0, description="Weight of the loss")
    start: int = Field(0, ge=0, description="First step with the loss; the teacher of that step becomes the anchor")
    ramp: int = Field(0, ge=0, description="Steps over which the weight rises linearly to its value; 0: at once")
    refresh: int = Field(10_000, ge=1, description="Steps after which the anchor becomes the teacher of then")
    updates: int | None = Field(
        3, ge=0, description="So often at most after the first time, then the anchor stays; null: without end"
    )
    enlarge: int = Field(
        2,
        ge=1,
        le=4,
        description="The anchor sees the boxes of the global crops with so many times their pixels a side",
    )

    def refuse_late(self, steps: int, key: str) -> None:
        """Refuse an anchor that would begin when a run of so many steps is over; nobody would see that it was off.

        Args:
            steps: Of the run.
            key: Where this configuration stands.

        Raises:
            ConfigError: When the first step with the loss is none of the run's.
        """
        if self.start >= steps:
            raise ConfigError(
                f"{key}.start lies beyond the run's last step: Gram anchoring would never begin",
                found=f"{key}.start: {self.start}, and {steps} steps in all",
                action=f"lower {key}.start, lengthen the run, or set {key} to null",
            )

    def weight_at(self, step: int) -> float:
        """The weight of a step, counted from 0; 0 before the start."""
        since = step - self.start
        if since < 0:
            return 0.0
        return self.weight * min((since + 1) / self.ramp, 1.0) if self.ramp else self.weight

    def renews(self, done: int) -> bool:
        """Whether the anchor becomes the teacher when so many steps are done."""
        since = done - self.start
        number, rest = divmod(since, self.refresh)
        return since >= 0 and rest == 0 and (self.updates is None or number <= self.updates)


class SigregConfig(Config):
    """SIGReg (LeJEPA): features like draws of a normal distribution, in place of KoLeo or of prototypes altogether."""

    weight: float = Field(0.05, gt=0, description="Weight of the statistic, on each of the global crops' class tokens")
    directions: int = Field(256, ge=1, description="Random directions a step in which features are compared")
    invariance: float = Field(
        0.0,
        ge=0,
        description="Weight of the squared distance of every crop to the mean of its global crops: with it, the other "
        "losses can be switched off (dino_weight, ibot_weight and koleo_weight 0: LeJEPA)",
    )


class LossConfig(Config):
    """The losses of a step; defaults are the recipe's."""

    student_temperature: float = Field(0.1, gt=0, description="Temperature of the student's softmax")
    dino_weight: float = Field(1.0, ge=0, description="Weight of the class-token loss, local and global")
    ibot_weight: float = Field(1.0, ge=0, description="Weight of the masked-patch loss")
    koleo_weight: float = Field(0.1, ge=0, description="Weight of the spreading loss on each of the global crops")
    koleo_group: int | None = Field(
        None,
        ge=2,
        description="Neighbours are sought in groups of so many images, across ranks if need be; null: a rank's",
    )
    gram: GramConfig | None = Field(None, description="Gram anchoring; null is off")
    sigreg: SigregConfig | None = Field(
        None, description="SIGReg; null is off. In place of KoLeo: koleo_weight 0 besides"
    )
    keep_mib: int = Field(
        1024, ge=0, description="A student's softmax over the prototypes is kept up to this size, else computed twice"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        weights = (self.dino_weight, self.ibot_weight, self.koleo_weight)
        if not any(weights) and self.gram is None and self.sigreg is None:
            raise ValueError("dino_weight, ibot_weight and koleo_weight are 0 without sigreg: nothing is learnt")
        return self
