"""The stage's conductor: one function a step, and `curate`, which runs them all without Kedro.

Kedro's nodes call the same functions and nothing else, so that a project and a program get the same files. What a step
hands on meets its gate first: a table that breaks it leaves no handle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinomill import tracking
from dinomill.curation.config import CurationConfig
from dinomill.curation.copies.deduplicate import deduplicate
from dinomill.curation.embedding.embed import embed_files
from dinomill.curation.gates.checks import check_embeddings, check_files, check_manifest
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.page.report import write_report
from dinomill.curation.record import record
from dinomill.curation.scan.scan import LABELLED, POOL, SEEDS, scan
from dinomill.curation.selection.retrieve import check_names
from dinomill.curation.selection.select import select
from dinomill.curation.write import write_dataset
from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle
from dinomill.images.listing import split_tiles
from dinomill.images.withdrawn import WithdrawnList
from dinomill.quality.handle import QualityHandle

QUALITY = "quality"  # beside a step's result: what its gate found


def curate(
    pool: Sequence[Any], seeds: Mapping[str, str] | None, labelled: str | None, config: CurationConfig
) -> DatasetHandle:
    """Curate a pool of images: every step in turn, each one's handle saved as soon as it is there.

    Args:
        pool: Folders, tars, manifests or ``s3://`` prefixes; ``{"path": …, "tiles": {…}}`` for what is cut into tiles.
        seeds: Good, unlabelled examples: a name and a place each; None: nothing is irrelevant.
        labelled: Images that will be measured on: nothing close to them is kept.
        config: How, and where to.

    Raises:
        DinomillError: When an input cannot be used or does not meet its expectations.
    """
    found = scan_files(pool, seeds, labelled, config)
    found.save()
    check_quality(found, config).save()
    features = embed_images(found, config)
    features.save()
    copies = find_duplicates(found, features, config)
    copies.save()
    chosen = select_images(found, features, copies, config)
    chosen.save()
    dataset = write_curated(found, features, chosen, config)
    dataset.save()
    return dataset


def scan_files(
    pool: Sequence[Any], seeds: Mapping[str, str] | None, labelled: str | None, config: CurationConfig
) -> ScanHandle:
    """Look at every file once; arguments as `curate` takes them."""
    sources, tiles = split_tiles(pool)
    return scan(
        source_groups(sources, seeds, labelled),
        config.scan,
        config.filters,
        whole=taken_whole(seeds, sources, config),
        tiles=tiles,
        withdrawn=WithdrawnList.read(config.withdrawn),
        folder=config.folders.scan,
        work=config.work,
        execution=config.execution,
        cache=config.cache,
    )


def check_quality(found: ScanHandle, config: CurationConfig) -> QualityHandle:
    """The gate between scan and embedding.

    Raises:
        QualityError: When the scan does not meet its expectations.
    """
    return check_files(found, config.gate, config.scan, folder=config.folders.quality, work=config.work)


def embed_images(found: ScanHandle, config: CurationConfig) -> EmbeddingsHandle:
    """Features of every readable image.

    Raises:
        QualityError: When one of them is none.
    """
    features = embed_files(
        found,
        config.embedding,
        folder=config.folders.embeddings,
        work=config.work,
        execution=config.execution,
        cache=config.cache,
    )
    check_embeddings(features, config.gate, folder=config.folders.embeddings / QUALITY, work=config.work)
    return features


def find_duplicates(found: ScanHandle, features: EmbeddingsHandle, config: CurationConfig) -> DuplicatesHandle:
    """Copies, and what is too close to the labelled images."""
    return deduplicate(
        found,
        features,
        config.deduplication,
        config.filters,
        folder=config.folders.duplicates,
        work=config.work,
        execution=config.execution,
    )


def select_images(
    found: ScanHandle, features: EmbeddingsHandle, copies: DuplicatesHandle, config: CurationConfig
) -> SelectionHandle:
    """The fate of every file."""
    return select(
        found, features, copies, config.retrieval, config.balance, config.filters, folder=config.folders.selection
    )


def write_curated(
    found: ScanHandle, features: EmbeddingsHandle, chosen: SelectionHandle, config: CurationConfig
) -> DatasetHandle:
    """Shards and manifest, the page about them, and the stage's MLflow run.

    Raises:
        QualityError: When the manifest does not meet its expectations; there is no page then, and nothing is recorded.
    """
    folder = config.folders.curated
    dataset = write_dataset(
        found,
        features,
        chosen,
        config.write,
        config.filters,
        folder=folder,
        work=config.work,
        execution=config.execution,
    )
    check_manifest(dataset, config.gate, folder=folder / QUALITY, work=config.work)
    write_report(found, features, chosen, config.filters, folder=folder)
    record(tracking.attach(), dataset, {"scan": found.work, "embed": features.work})
    return dataset


def source_groups(pool: Sequence[str], seeds: Mapping[str, str] | None, labelled: str | None) -> dict[str, list[str]]:
    """The sources of each group, in the order in which the scan lists them."""
    groups = {POOL: list(pool)}
    if labelled:
        groups[LABELLED] = [labelled]
    return groups | {SEEDS + name: [place] for name, place in sorted((seeds or {}).items())}


def taken_whole(seeds: Mapping[str, str] | None, pool: Sequence[str], config: CurationConfig) -> list[str]:
    """The groups of the seed sets whose own images go into the dataset.

    Raises:
        ConfigError: When the settings name a set that there is not, or a set's images are in the pool as well.
    """
    names = sorted(seeds or {})
    check_names(config.retrieval, names)
    whole = [name for name in names if config.retrieval.for_set(name).as_is]
    for name in whole:
        if seeds and seeds[name] in pool:
            raise ConfigError(
                f"The seed set {name!r} is to be taken whole (as_is), and its images are in the pool as well.",
                found=seeds[name],
                action="take it out of `pool` in globals.yml: each image needs one way into the dataset",
            )
    return [SEEDS + name for name in whole]
