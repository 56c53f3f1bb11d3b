"""What the distillation stage can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dinomill.execution.launcher_config import LauncherConfig
from dinomill.training.config import DistillationStepConfig, StatedModel
from dinomill.training.job import Runtime, TrainingRecipe


class StudentModel(StatedModel):
    """A student's shape; what it shares with teacher and crops follows from them, and need not be written again."""

    image_size: int | Literal["auto"] = Field(  # type: ignore[assignment]
        default="auto", description="side in pixels of the native grid of positions; auto: that of the global crops"
    )
    patch_size: int | Literal["auto"] = Field(  # type: ignore[assignment]
        default="auto", description="side in pixels of a patch; auto: the teacher's"
    )
    in_channels: int | Literal["auto"] = Field(default="auto", description="channels of an image; auto: the teacher's")


class DistillationConfig(TrainingRecipe):
    """Small backbones from a frozen teacher; all students learn from the same pass of the teacher."""

    work: Path = Field(
        description="folder of checkpoints and curves, outside DVC; each configuration has its own in it"
    )
    output: Path = Field(description="folder of the finished students; DVC's out")
    students: dict[str, StudentModel] = Field(
        min_length=1, description="shapes by name; patch size and channels are the teacher's"
    )
    champion: str | None = Field(
        default=None, description="the student that later stages register and package; null: the first"
    )
    step: DistillationStepConfig = Field(
        default_factory=DistillationStepConfig, description="losses, centering, precision; prototypes are the teacher's"
    )
    runtime: Runtime = Field(default_factory=Runtime, description="how it is computed")
    launcher: LauncherConfig = Field(default_factory=LauncherConfig, description="how many processes, started by what")

    @model_validator(mode="after")
    def _champion_is_a_student(self) -> Self:
        if self.champion is not None and self.champion not in self.students:
            raise ValueError(f"champion {self.champion!r} is none of the students: {', '.join(self.students)}")
        for name in self.students:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"the student's name {name!r} becomes a folder: letters, digits, - and _ only")
        return self
