"""What the report shows, and how much of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dinomill.config import Config


class ReportingConfig(Config):
    """The page's extent. Pictures are what makes it large: the defaults give about 2 MB."""

    output: Path = Field(description="the report's folder; DVC's out")
    environment: str | None = Field(
        default=None, description="environment that the commands on the page are for; null: the base"
    )
    evaluation_work: Path | None = Field(
        default=None, description="evaluation's work folder, where its clock times lie; null: they are not shown"
    )
    planted: Path | None = Field(
        default=None, description="Parquet of what was planted into the pool; scored when it is there"
    )
    labels: str | None = Field(
        default=None,
        description="what a class of the planted pool's labelled images means; said beside the table of scores",
    )
    quality: dict[str, Path] = Field(
        default_factory=dict, description="where quality gates leave their Data Docs, by name; copied beside the page"
    )
    kept_images: int = Field(default=60, ge=0, le=1000, description="kept images on the contact sheet")
    removed_images: int = Field(default=18, ge=0, le=1000, description="images on the contact sheet of each fate")
    duplicate_pairs: int = Field(default=12, ge=0, le=500, description="removed duplicates beside what was kept")
    thumbnail: int = Field(default=96, ge=16, le=512, description="longer side of a small picture in pixels")
    queries: int = Field(default=6, ge=0, le=50, description="query images whose nearest neighbours are shown")
    failures: int = Field(
        default=6, ge=0, le=50, description="of those on which a model's neighbours voted wrongly, so many are shown"
    )
    neighbours: int = Field(default=8, ge=1, le=30, description="nearest neighbours a query")
    confused_pairs: int = Field(default=5, ge=0, le=50, description="most frequent confusions of a model with pictures")
    curated_shares: Path | None = Field(
        default=None,
        description="work folder of benchmarks/curated_shares.py, drawn where it has results; null: nowhere",
    )
    pca_images: int = Field(default=10, ge=0, le=100, description="images whose patch features and attention are shown")
