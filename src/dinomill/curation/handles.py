"""What curation's steps hand to each other; the last one hands on a dinomill.handles.DatasetHandle."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dinomill.config import Config
from dinomill.handles import Handle
from dinomill.vectors.index import SearchReport


class ScanHandle(Handle):
    """Every file of pool, labelled set and seeds: ``files.parquet``, ``signatures.npy`` and ``quarantine.csv``."""

    files: Path = Field(description="Parquet, columns of scan.FILES_SCHEMA; sorted by group, source and path")
    files_sha256: str
    signatures: Path = Field(description="int8 [rows, 448]: brightness, then colours; zero rows for unreadable files")
    quarantine: Path = Field(description="CSV: the files that are left out, with reason and detail")
    groups: dict[str, int] = Field(description="files by group: pool, labelled, seeds:<name>")
    quarantined: dict[str, int] = Field(description="files of the pool by reason")
    withdrawn: dict[str, int] = Field(
        default_factory=dict, description="files by group whose deletion was asked for; they are used for nothing"
    )
    sources: tuple[str, ...] = Field(description="the pool's")
    value_range: tuple[float, float] | None = Field(
        default=None, description="stored values that are black and white, in files of more than 8 bits"
    )
    deep: int = Field(default=0, description="usable files of the pool of more than 8 bits")
    largest: float | None = Field(default=None, description="stored value among them; null: there are none")
    deep_kinds: dict[str, int] = Field(default_factory=dict, description="what those hold: 16-bit integers, floats …")
    skipped: dict[str, int] = Field(
        default_factory=dict, description="files of the pool that were passed over, by kind: .json, Thumbs.db, hidden …"
    )
    work: dict[str, int] = Field(
        default_factory=dict, description="files: read, decoded (of those), and taken_over from what was seen before"
    )


class EmbeddingsHandle(Handle):
    """Features of every readable file: ``NNNNN.npy`` in the folder, float16 [n, dimension], rows of length one."""

    shards: tuple[Path, ...]
    rows: int = Field(description="rows in all; row r is the r-th readable file of the scan")
    dimension: int
    network: str
    image_size: int = Field(default=0, description="side that images were squeezed to; 0: the network knows its own")
    whitened: bool = Field(default=False, description="whether the features were spread evenly")
    embedder: str = Field(default="", description="hash of all that makes a row what it is, beside the image")
    work: dict[str, int] = Field(
        default_factory=dict, description="images: embedded, and taken_over from what was embedded before"
    )


class DuplicatesHandle(Handle):
    """Which files are copies: ``duplicates.parquet`` in the folder, columns of copies.tables.DUPLICATES_SCHEMA."""

    duplicates: Path
    counts: dict[str, int] = Field(description="files by fate and reason")
    searches: dict[str, SearchReport] = Field(
        default_factory=dict, description="how signatures and embeddings were searched, and the measured recall of that"
    )
    apart: Path | None = Field(
        default=None, description="Parquet, columns of copies.tables.APART_SCHEMA: files that nearly left"
    )
    kept_apart: dict[str, int] = Field(
        default_factory=dict,
        description="files that nearly left: their colour differs, or they agree only with something that left (chain)",
    )
    aligned: bool = Field(
        default=False, description="whether the same thing is always at the same place: what a copy is was stricter"
    )
    work: dict[str, int] = Field(
        default_factory=dict,
        description="images: compared with all others, and taken_over: with known neighbours",
    )


Verdict = Literal["separates", "partly", "hardly", "most", "everything", "nothing", "unknown"]


class Judgement(Config):
    """What is known of one set of seeds without a label."""

    verdict: Verdict = Field(
        description="separates, partly, hardly; most of the pool, everything, nothing: asked for; unknown: few seeds"
    )
    sentence: str = Field(description="the verdict in words, with its figures")
    remedy: str = Field(default="", description="what to do about it; empty: nothing")
    seeds: int = Field(description="readable seeds")
    considered: int = Field(description="images of the pool that retrieval decided on")
    asked: int = Field(description="… that the set asked for")
    purity: float | None = Field(default=None, description="estimated share of what is asked for that is wanted")
    reach: float | None = Field(default=None, description="estimated share of what is wanted that is asked for")

    def __str__(self) -> str:
        return self.sentence + (f": {self.remedy}" if self.remedy else "") + "."


class SelectionHandle(Handle):
    """What becomes of every file of the pool: ``selection.parquet``, columns of select.SELECTION_SCHEMA."""

    selection: Path
    clusters: Path = Field(description="Parquet, columns of balance.CLUSTERS_SCHEMA")
    fates: dict[str, int]
    retrieved: dict[str, int] = Field(description="files that each seed set asked for, before balance")
    thresholds: dict[str, float] = Field(description="score at which each seed set stops; sets in mode `similar`")
    compared: dict[str, int] = Field(default_factory=dict, description="as `work` of the copies")
    kept_apart: dict[str, int] = Field(default_factory=dict, description="as of the copies")
    apart: Path | None = Field(default=None, description="as of the copies")
    aligned: bool = Field(default=False, description="as of the copies")
    judged: dict[str, Judgement] = Field(default_factory=dict, description="how well each seed set separates")
    searches: dict[str, SearchReport] = Field(
        default_factory=dict, description="how each seed set was searched for, and the measured recall of that"
    )
