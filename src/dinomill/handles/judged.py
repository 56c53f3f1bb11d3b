"""Handles of what stages find out and hand out: an evaluation, a registered version, an archive, a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from dinomill.handles.handle import Handle
from dinomill.handles.made import ModelHandle
from dinomill.scores import ScoreTable, Times, times_of


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
