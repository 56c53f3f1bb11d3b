"""Curation's nodes: typed configuration and handles in, a handle out."""

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
    from dinomill.curation.scan.scan import scan
    from dinomill.curation.stage import source_groups, taken_whole
    from dinomill.images.listing import split_tiles

    return scan(
        source_groups(pool, seeds, labelled),
        config.scan,
        config.filters,
        whole=taken_whole(seeds, pool, config),
        tiles=split_tiles(pool)[1],
        folder=config.folders.scan,
        work=config.work,
        execution=config.execution,
    )


def check_quality(scan: ScanHandle, config: CurationConfig) -> QualityHandle:
    """Stop here when the scan does not meet its expectations."""
    from dinomill.curation.gates.checks import check_files

    return check_files(scan, config.gate, config.scan, folder=config.folders.quality, work=config.work)


def embed_images(scan: ScanHandle, quality: QualityHandle, config: CurationConfig) -> EmbeddingsHandle:
    """Features of every readable image; runs after the gate."""
    from dinomill.curation.embedding.embed import embed_files

    assert quality.checks, "the gate looked at nothing"
    return embed_files(
        scan, config.embedding, folder=config.folders.embeddings, work=config.work, execution=config.execution
    )


def find_duplicates(scan: ScanHandle, embeddings: EmbeddingsHandle, config: CurationConfig) -> DuplicatesHandle:
    """Copies, and what is too close to the labelled images."""
    from dinomill.curation.copies.deduplicate import deduplicate

    return deduplicate(
        scan,
        embeddings,
        config.deduplication,
        config.filters,
        folder=config.folders.duplicates,
        work=config.work,
        execution=config.execution,
    )


def select_images(
    scan: ScanHandle, embeddings: EmbeddingsHandle, duplicates: DuplicatesHandle, config: CurationConfig
) -> SelectionHandle:
    """The fate of every file."""
    from dinomill.curation.selection.select import select

    return select(
        scan, embeddings, duplicates, config.retrieval, config.balance, config.filters, folder=config.folders.selection
    )


def write_curated(
    scan: ScanHandle, embeddings: EmbeddingsHandle, selection: SelectionHandle, config: CurationConfig
) -> DatasetHandle:
    """Shards, manifest, the page about them, and the stage's MLflow run."""
    from dinomill import tracking
    from dinomill.curation.page.report import write_report
    from dinomill.curation.record import record
    from dinomill.curation.write import write_dataset

    dataset = write_dataset(
        scan,
        embeddings,
        selection,
        config.write,
        config.filters,
        folder=config.folders.curated,
        work=config.work,
        execution=config.execution,
    )
    write_report(scan, embeddings, selection, config.filters, folder=config.folders.curated)
    record(tracking.attach(), dataset)
    return dataset
