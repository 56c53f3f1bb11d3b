"""What the distillation stage can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from dinomill.config import Config, tag
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.models.convnext_config import ConvNeXtConfig, Count
from dinomill.models.kinds import BY_KIND, CONVNEXT, VIT
from dinomill.training.config import (
    Address,
    CacheConfig,
    DistillationStepConfig,
    InitialisationConfig,
    StatedModel,
)
from dinomill.training.job import Runtime, TrainingRecipe


class StudentModel(StatedModel):
    """A student's shape; what it shares with teacher and crops follows from them, and need not be written again."""

    image_size: int | Literal["auto"] = Field(  # type: ignore[assignment]
        default="auto", description="side in pixels of the native grid of positions; auto: that of the global crops"
    )
    patch_size: int | Literal["auto"] = Field(  # type: ignore[assignment]
        default="auto",
        description="side in pixels of a patch; auto: the teacher's; where it has none, an eighth of a crop or less",
    )
    in_channels: int | Literal["auto"] = Field(default="auto", description="channels of an image; auto: the teacher's")


class StudentConvNeXt(ConvNeXtConfig, InitialisationConfig):
    """A convolutional student's shape; it has no positions, and its places follow from stem and stages."""

    in_channels: Count | Literal["auto"] = Field(  # type: ignore[assignment]
        default="auto", description="channels of an image; auto: the teacher's"
    )


# By `kind`; without one, a vision transformer.
AnyStudent = Annotated[Annotated[StudentModel, Tag(tag(VIT))] | Annotated[StudentConvNeXt, Tag(tag(CONVNEXT))], BY_KIND]

ASSIGNED_SIZE = (
    "teacher_size: with the objective `assignments` the teacher sees the students' crops; set it to auto, or the "
    "objective to clusters or regression"
)
PIPELINE = "pretraining"  # the teacher that this project's pretraining makes


class ClustersConfig(Config):
    """Prototypes of a teacher without heads: centres of its own whitened features."""

    prototypes: int = Field(
        default=1024, ge=2, description="centres of class features, and of patches; fewer where there are few images"
    )
    dim: int = Field(default=256, ge=2, description="directions of the teacher's features that are kept, at most")


class RegressionConfig(Config):
    """How a student's features become predictions of the teacher's."""

    hidden_dim: int = Field(default=1024, ge=0, description="hidden layer of the projectors; 0: they are linear")
    dim: int = Field(
        default=0,
        ge=0,
        description="0: all numbers of the teacher's features are learnt, standardised one by one; else so many "
        "directions of them at most, whitened",
    )


class DistillationConfig(TrainingRecipe):
    """Small backbones from a frozen teacher; all students learn from the same pass of the teacher."""

    teacher: Address | None = Field(
        default=None,
        description="whose features are learnt: null or `pretraining` is the pipeline's own; else a folder or file of "
        "weights (ours, DINOv2, DINOv3, Hugging Face), models:/name@alias, efficientnet-lite0, .onnx, .xml, .pt2",
    )
    licence: str | None = Field(
        default=None,
        min_length=1,
        description="of the teacher, where nothing beside its weights says it; it goes wherever the students go",
    )
    objective: Literal["auto", "assignments", "clusters", "regression"] = Field(
        default="auto",
        description="assignments: to the prototypes of the teacher's heads; clusters: to centres of its own features; "
        "regression: the features themselves; auto: assignments where it has heads, else clusters",
    )
    teacher_size: int | Literal["auto"] = Field(
        default="auto",
        description="side in pixels at which the teacher sees the global crops; auto: its own, with heads that of the "
        "crops",
    )
    teacher_images: int = Field(
        default=4096, ge=16, description="images of whose features means, spreads and centres are made, without heads"
    )
    clusters: ClustersConfig = Field(default_factory=ClustersConfig, description="for that objective")
    regression: RegressionConfig = Field(default_factory=RegressionConfig, description="for that objective")
    cache: CacheConfig | None = Field(
        default=None, description="keep the teacher's features; null: it sees every crop anew, once for all students"
    )

    work: Path = Field(
        description="folder of checkpoints and curves, outside DVC; each configuration has its own in it"
    )
    output: Path = Field(description="folder of the finished students; DVC's out")
    students: dict[str, AnyStudent] = Field(
        min_length=1, description="shapes by name, of vision transformers or (kind: convnext) ConvNeXts"
    )
    champion: str | None = Field(
        default=None, description="the student that later stages register and package; null: the first"
    )
    step: DistillationStepConfig = Field(
        default_factory=DistillationStepConfig, description="losses, centering, precision; prototypes are the teacher's"
    )
    runtime: Runtime = Field(default_factory=Runtime, description="how it is computed")
    launcher: LauncherConfig = Field(default_factory=LauncherConfig, description="how many processes, started by what")

    @property
    def own_teacher(self) -> bool:
        """Whether the teacher is the one that the pipeline's pretraining makes."""
        return self.teacher in (None, PIPELINE)

    @model_validator(mode="after")
    def _assignments_see_the_crops(self) -> Self:
        if self.objective == "assignments" and self.cache is not None:
            raise ValueError(
                "cache: with the objective `assignments` the teacher's features are not kept; set it to null"
            )
        # What pretraining makes has heads, which `auto` learns from.
        assigned = self.objective == "assignments" or (
            self.objective == "auto" and self.own_teacher and self.cache is None
        )
        if assigned and self.teacher_size not in ("auto", self.crops.global_size):
            raise ValueError(ASSIGNED_SIZE)
        return self

    @model_validator(mode="after")
    def _champion_is_a_student(self) -> Self:
        if self.champion is not None and self.champion not in self.students:
            raise ValueError(f"champion {self.champion!r} is none of the students: {', '.join(self.students)}")
        for name in self.students:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"the student's name {name!r} becomes a folder: letters, digits, - and _ only")
        return self
