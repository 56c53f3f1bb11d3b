"""What a plan is made from and what it is made of: wishes and measurements in, values with reasons out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field

from dinomill.config import Config
from dinomill.images.tiles import TileConfig

Size = Literal["tiny", "S", "B", "L"]


class Choice(NamedTuple):
    """A value and why it is that one."""

    value: Any
    reason: str


# By dotted key, `pretraining.crops.global_size`, in the order in which they are written.
Choices = dict[str, Choice]


class Start(Config):
    """Weights to start from, as far as a plan needs to know them."""

    address: str = Field(description="as it goes into the configuration")
    family: str = Field(description="for people: dinov2, dinov3 …")
    image_size: int = Field(ge=1, description="pixels a side that they were trained with")
    patch_size: int = Field(ge=1, description="pixels")
    in_channels: int = Field(ge=1, description="channels that they take")
    embed_dim: int = Field(ge=1, description="width of a token")
    depth: int = Field(ge=1, description="blocks")
    parameters: int = Field(ge=1, description="numbers")
    licence: str | None = Field(default=None, description="what their file says of it, or what was stated")
    licence_stated: bool = Field(default=False, description="whether --licence said it")


class Given(Config):
    """A teacher that is given, as far as a plan needs to know it."""

    address: str = Field(description="as it goes into the configuration")
    family: str = Field(description="for people: efficientnet, dinov2, onnx …")
    image_size: int = Field(ge=1, description="pixels a side at which it sees images by itself")
    patch_size: int | None = Field(default=None, description="pixels; null: it is no vision transformer")
    any_size: bool = Field(description="whether it takes images of other sizes than its own")
    in_channels: int = Field(ge=1, description="channels that it takes")
    parameters: int = Field(ge=0, description="numbers; 0: nothing says it")
    licence: str | None = Field(default=None, description="what its files say of it, or what was stated")
    licence_stated: bool = Field(default=False, description="whether --licence said it")


class Wish(Config):
    """What the user asks for."""

    name: str = Field(description="of the environment")
    pool: tuple[str, ...] = Field(min_length=1, description="where the images lie")
    tiles: TileConfig | None = Field(default=None, description="how the pool's images are cut; null: they are not")
    seeds: dict[str, str] = Field(default_factory=dict, description="sets of good examples, by name")
    seed_images: int = Field(default=0, ge=0, description="files in them")
    labelled: str | None = Field(default=None, description="<split>/<class>/<image>, or a table of them")
    bank: int = Field(default=0, ge=0, description="labelled images of the split train")
    queries: int = Field(default=0, ge=0, description="labelled images of the split test")
    classes: int = Field(default=0, ge=0, description="of the labelled images")
    hours: float = Field(default=1.0, gt=0, description="that the whole run may take")
    size: Size | None = Field(default=None, description="of the model; null: by images, machine and hours")
    start: Start | None = Field(default=None, description="weights to start from")
    teacher: Given | None = Field(default=None, description="who teaches; null: what is pretrained")
    notes: tuple[str, ...] = Field(default=(), description="what the user should know of the places, in sentences")

    @property
    def cut(self) -> dict[str, TileConfig]:
        """How the images of each place of the pool are cut."""
        return dict.fromkeys(self.pool, self.tiles) if self.tiles else {}


class Measured(Config):
    """What the probe measured on this machine with these images, or what is guessed before."""

    curation_memory: int = Field(ge=0, description="peak of a process that looks and embeds, bytes")
    scan_seconds: float = Field(gt=0, description="to look at one image, one process")
    embed_seconds: float = Field(gt=0, description="to embed one image for curation, one process")
    pretraining_step: float = Field(gt=0, description="seconds of a step")
    distillation_step: float = Field(gt=0, description="seconds of a step")
    pretraining_fixed: float = Field(ge=0, description="seconds of a training process besides its steps")
    distillation_fixed: float = Field(ge=0, description="seconds of a training process besides its steps")
    pretraining_memory: int = Field(ge=0, description="peak of the training process, bytes")
    distillation_memory: int = Field(ge=0, description="peak of the training process, bytes")
    teacher_rate: float = Field(gt=0, description="images a second through the teacher, all cores")
    student_rate: float = Field(gt=0, description="images a second through the student, all cores")
    import_seconds: float = Field(gt=0, description="to start Python and import what every stage imports")
    pretraining_disk: int = Field(
        ge=0, description="of what a run leaves: checkpoints, exports and their copies, bytes"
    )
    distillation_disk: int = Field(
        ge=0, description="of what a run leaves: checkpoints, exports and their copies, bytes"
    )
    export_bytes: int = Field(ge=0, description="of the weights that are registered and packaged")
    busy: bool = Field(default=False, description="other work took much of the machine meanwhile")
    guessed: bool = Field(default=False, description="true: nothing was measured")


def in_words(hours: float) -> str:
    """A stretch of time, for people."""
    if hours < 1:
        minutes = max(round(60 * hours), 1)
        return "one minute" if minutes == 1 else f"{minutes} minutes"
    return "one hour" if hours == 1 else f"{hours:.3g} hours"
