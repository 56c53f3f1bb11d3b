"""Handles of what stages make: the sample, a dataset, a trained backbone, its students."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dinomill.handles.handle import START_NAME, Handle, require


class SampleHandle(Handle):
    """The laid-out sample."""

    counts: dict[str, int] = Field(description="files by kind: relevant, near_duplicate, digit, truncated, …")


class DatasetHandle(Handle):
    """A curated dataset: ``manifest.parquet`` and ``shards/*.tar`` in the folder."""

    manifest: Path = Field(description="the Parquet manifest: a row for every image of the pool, kept or not")
    manifest_sha256: str
    shards: tuple[Path, ...] = Field(
        description="the tar shards, in order; a manifest row's `shard` indexes this tuple"
    )
    images: int = Field(description="images kept")
    pool_images: int = Field(description="files looked at")
    fates: dict[str, int] = Field(description="files by fate; see dinomill.images.manifest.Fate")
    channels: int
    mean: tuple[float, ...] = Field(description="per channel, in [0, 1]")
    std: tuple[float, ...] = Field(description="per channel, in [0, 1]")
    value_range: tuple[float, float] | None = Field(
        default=None,
        description="stored values that are black and white, in files of more than 8 bits",
    )
    embedder: str = Field(description="the network whose features curation used")
    seeds: dict[str, str] = Field(
        default_factory=dict, description="each seed set: how well it separates what it asks for, and what would help"
    )
    sources: tuple[str, ...] = Field(description="the pool's folders or URIs")


class ModelHandle(Handle):
    """A trained backbone: ``config.json`` and ``model.safetensors`` in the folder, and the curve of its training.

    Of two trainings with equal results the handles are equal: the runs of MLflow know by a tag what they made.
    """

    _retired = frozenset({"run_id"})

    name: str
    weights_sha256: str
    parameters: int
    embed_dim: int = Field(description="width of an image's embedding")
    image_size: int = Field(description="side in pixels at which it was trained and is measured")
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images_seen: int
    steps: int
    unreadable: int = Field(default=0, description="images that could not be read any more: others took their places")
    history: Path = Field(description="Parquet: a row a logged step: step, images, loss and its terms, lr, …")
    dataset_sha256: str = Field(description="the manifest that it was trained on")
    teacher_sha256: str | None = Field(default=None, description="weights of the teacher it was distilled from")
    initial: str | None = Field(default=None, description="address of the weights that it started from; null: random")
    initial_sha256: str | None = Field(default=None, description="of their content")
    licence: str | None = Field(
        default=None, description="of the weights that it was made from; own: random ones alone; null: unknown"
    )
    origin: str | None = Field(default=None, description="what it was made from, for people")

    @property
    def start(self) -> Path | None:
        """The backbone that it started from, an export like its own; None when it started from random weights."""
        return None if self.initial is None else self.folder / START_NAME

    def taught_by(self, weights_sha256: str | None) -> bool:
        """Whether these are the weights that it was distilled from; where nobody knows, they are."""
        return None in (self.teacher_sha256, weights_sha256) or self.teacher_sha256 == weights_sha256


class StudentsHandle(Handle):
    """The students distilled in one run, by name."""

    students: dict[str, ModelHandle]
    champion: str = Field(description="the student that later stages register and package")
    given_teacher: bool = Field(default=False, description="whether the teacher was named; false: pretraining's")
    teacher: str | None = Field(default=None, description="address of a teacher that was named")
    teacher_size: int | None = Field(default=None, description="pixels at which it was shown images; null: its own")

    def taught_by_pretraining(self, pretrained: ModelHandle | None) -> ModelHandle | None:
        """What pretraining made, where it taught these students; None where another teacher did.

        Args:
            pretrained: What lies in pretraining's folder; of students of another teacher it is of no concern.

        Raises:
            InputError: When pretraining taught them, and there is no result of it.
        """
        if self.given_teacher:
            return None
        require(pretrained, "pretraining")
        return pretrained
