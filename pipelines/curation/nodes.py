"""Curation's nodes: typed configuration and handles in, a handle out; each is a step of curation/stage.py."""

from __future__ import annotations

from typing import Any

from dinomill.curation.config import CurationConfig
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.handles import DatasetHandle
from dinomill.quality.handle import QualityHandle


def scan_files(
    pool: list[Any], seeds: dict[str, str] | None, labelled: str | None, config: CurationConfig
) -> ScanHandle:
    """Look at every file once."""
    from dinomill.curation import stage

    return stage.scan_files(pool, seeds, labelled, config)


def check_quality(scan: ScanHandle, config: CurationConfig) -> QualityHandle:
    """Stop here when the scan does not meet its expectations."""
    from dinomill.curation import stage

    return stage.check_quality(scan, config)


def embed_images(scan: ScanHandle, quality: QualityHandle, config: CurationConfig) -> EmbeddingsHandle:
    """Features of every readable image; runs after the gate."""
    from dinomill.curation import stage

    assert quality.checks, "the gate looked at nothing"
    return stage.embed_images(scan, config)


def find_duplicates(scan: ScanHandle, embeddings: EmbeddingsHandle, config: CurationConfig) -> DuplicatesHandle:
    """Copies, and what is too close to the labelled images."""
    from dinomill.curation import stage

    return stage.find_duplicates(scan, embeddings, config)


def select_images(
    scan: ScanHandle, embeddings: EmbeddingsHandle, duplicates: DuplicatesHandle, config: CurationConfig
) -> SelectionHandle:
    """The fate of every file."""
    from dinomill.curation import stage

    return stage.select_images(scan, embeddings, duplicates, config)


def write_curated(
    scan: ScanHandle, embeddings: EmbeddingsHandle, selection: SelectionHandle, config: CurationConfig
) -> DatasetHandle:
    """Shards, manifest, the page about them, and the stage's MLflow run."""
    from dinomill.curation import stage

    return stage.write_curated(scan, embeddings, selection, config)
