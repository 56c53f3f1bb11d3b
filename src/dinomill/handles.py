"""The handles that pass between stages: small typed JSON files that say what lies where, and where it came from.

A handle is the only thing a stage hands on; images, embeddings and weights stay on disk beside it:

    <folder>/handle.json      the handle
    <folder>/…                what it describes

Paths are stored relative to the project's root, so that a handle means the same on every machine. Handles hold no
clock times: the same input and configuration give the same bytes, which is how DVC knows that nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dinomill.errors import InputError
from dinomill.scores import ScoreTable, Times, times_of
from dinomill.storage.atomic import write_text

HANDLE_NAME = "handle.json"
START_NAME = "start"
# An exported network keeps its heads beside its backbone: a distillation learns from their outputs.
HEADS_NAME = "heads.safetensors"
# And how it was trained, for its card.
RECIPE_NAME = "recipe.json"
# What the machine did while it trained: of a run, not of its result, so that equal trainings leave equal folders.
MACHINE_NAME = "machine.parquet"


class Handle(BaseModel):
    """What a finished stage leaves for the next one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Fields that earlier versions wrote and nobody reads any more.
    _retired: ClassVar[frozenset[str]] = frozenset()

    folder: Path = Field(description="where the described files lie")
    made_of: str = Field(
        description="sha256 of all that makes the files what they are: the settings that count, and the content of "
        "what they were made from"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        kept = {name: value for name, value in values.items() if name not in cls._retired}
        if "config_hash" in kept and "made_of" not in kept:
            kept["made_of"] = kept.pop("config_hash")
        return kept

    def save(self, within: Path | None = None) -> Path:
        """Write ``handle.json`` atomically and return its path.

        Args:
            within: Where the folder's files are being made, to become the folder as a whole; None: the folder itself.
        """
        path = (self.folder if within is None else within) / HANDLE_NAME
        write_text(path, self.model_dump_json(indent=2) + "\n")
        return path

    def below(self, root: Path) -> Self:
        """The same with its paths made absolute, for who does not stand in the project's root."""
        return self.model_copy(update={name: _below(root, getattr(self, name)) for name in type(self).model_fields})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the handle in ``folder``.

        Raises:
            InputError: When there is none, or it was written by an incompatible version.
        """
        path = folder / HANDLE_NAME
        if not path.exists():
            raise InputError(
                f"There is no {path}.",
                expected=f"the result of the stage that writes {folder}",
                action="run that stage first: `make run` (`make run ENV=NAME` in an environment) runs what is needed",
            )
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"{path} is not a handle that this version understands.",
                found=str(error).splitlines()[0],
                action="remove its folder and run its stage again",
            ) from None


def _below(root: Path, value: Any) -> Any:
    """A field's value with the paths in it below a folder."""
    if isinstance(value, Path):
        return root / value
    if isinstance(value, Handle):
        return value.below(root)
    if isinstance(value, tuple):
        return tuple(_below(root, one) for one in value)
    if isinstance(value, dict):
        return {name: _below(root, one) for name, one in value.items()}
    return value


def require(handle: Handle | None, stage: str) -> None:
    """Refuse to go on without the result of another stage, which a distillation alone could do without.

    Raises:
        InputError: When there is none.
    """
    if handle is None:
        raise InputError(
            f"There is no result of the stage {stage}.",
            expected=f"what {stage} leaves for this stage",
            action=f"run it first: `kedro run --pipelines {stage}` (with `--env` in an environment); `make run` "
            "(`make run ENV=NAME`) runs what is needed",
        )


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


class EvaluationHandle(Handle, ScoreTable):
    """The evaluation: the table of the labelled set, and of further sets; ``metrics.json`` in the folder is DVC's."""

    _retired = frozenset({"times"})

    sets: dict[str, ScoreTable] = Field(default_factory=dict, description="tables of further labelled sets, by name")
    metrics: Path
    teacher_sha256: str | None = Field(default=None, description="weights of the teacher that was measured")
    students_sha256: dict[str, str] = Field(default_factory=dict, description="of the students, by name")
    champion_sha256: str | None = Field(default=None, description="of the version in use, where it is a row")
    timed: tuple[str, ...] = Field(
        default=(), description="measures that were taken with a clock, which lie in the work folder: see `times_of`"
    )

    def measured_teacher_of(self, model: ModelHandle) -> bool:
        """Whether the row of the teacher is the network that a student learnt from; where nobody knows, it is."""
        return model.taught_by(self.teacher_sha256)

    def with_times(self, work: Path | None) -> EvaluationHandle:
        """The same with what a clock took, where this machine has it: for people, and for nothing that is decided.

        Args:
            work: Evaluation's work folder; None: nobody knows.
        """
        if work is None or not self.timed:
            return self
        try:
            kept = Times.model_validate_json(times_of(work, self.made_of).read_bytes())
        except (OSError, ValueError):
            return self
        if kept.made_of != self.made_of:
            return self
        main = self.beside(kept.tables[""]) if "" in kept.tables else self
        sets = {
            name: table.beside(kept.tables[name]) if name in kept.tables else table for name, table in self.sets.items()
        }
        return main.model_copy(update={"sets": sets})

    def tables(self) -> dict[str | None, ScoreTable]:
        """Every table that has rows: that of the labelled set has no name."""
        tables: dict[str | None, ScoreTable] = {None: self}
        tables.update(self.sets)
        return {name: table for name, table in tables.items() if table.scores}


class ProbesHandle(Handle):
    """The linear probes that evaluation fitted on the labelled images: what a server answers with class scores by."""

    probes: dict[str, Path] = Field(description="their files, by the weights (sha256) of the network that they are for")
    labelled: bool = Field(description="whether there were labelled images to fit any on")


class RegistrationHandle(Handle):
    """A registered MLflow model version, as the registry has it."""

    _retired = frozenset({"run_id"})

    model: str
    version: int
    aliases: tuple[str, ...]
    uri: str = Field(description="models:/name@alias")
    weights_sha256: str
    source: Path = Field(description="the folder of the exported backbone that was registered")
    passed_gate: bool
    gate: tuple[str, ...] = Field(description="one sentence a check, with its figures")
    licence: str | None = Field(default=None, description="of the weights; own: the user's; null: unknown")
    origin: str | None = Field(default=None, description="what they were made from")

    def not_passed(self) -> str | None:
        """What it means that the gate was not passed, and what to do; None where it was."""
        if self.passed_gate:
            return None
        stays = (
            "it stays the champion until another version passes"
            if "champion" in self.aliases
            else "the alias `champion` stays where it is"
        )
        return (
            f"Not passed: version {self.version} is registered, and loads as models:/{self.model}/{self.version}; "
            f"{stays}. What helps is what the failing sentence is about: more steps or images, a larger student, more "
            "labelled images where it is within noise, any where nothing was measured. If the model is good enough as "
            "it is, ease that requirement under registration.gate (null leaves it out) in registration/parameters.yml "
            "of the environment, and run registration again."
        )


class PackageHandle(Handle):
    """A TorchServe archive that answered."""

    archive: Path
    archive_sha256: str
    model: str
    version: int
    weights_sha256: str = Field(default="", description="of the version: its number alone says nothing elsewhere")
    embed_dim: int
    smoke: dict[str, float] = Field(
        description="cosine (to the model run directly), images, latency_ms, images_per_second, "
        "call_images_per_second, seconds_to_ready"
    )
    backend: str = Field(default="eager float32", description="what computes the embeddings: runtime and precision")
    backends: tuple[dict[str, Any], ...] = Field(
        default=(), description="what was measured of each: a row of serving/backends/measured.py's table"
    )
    backends_left_out: dict[str, str] = Field(default={}, description="backends that were not measured, and why")
    call_images: int | None = Field(
        default=None, description="images that one call may carry on the machine that packaged it; null: not measured"
    )
    call_reason: str = Field(default="", description="what sets their number, in words")
    probe: dict[str, float] = Field(
        default={},
        description="of the class scores: classes, accuracy on scored_images, learnt_images; empty: it answers none",
    )
    index: dict[str, float] = Field(
        default={}, description="of nearest neighbours: images, megabytes, thumbnails (pixels a side; 0: none)"
    )
    lineage: dict[str, str] = Field(
        default={}, description="where its model came from, as the registry had it: dataset_sha256, run, registered …"
    )


class ReportHandle(Handle):
    """The report: one self-contained HTML page."""

    page: Path
    page_sha256: str
