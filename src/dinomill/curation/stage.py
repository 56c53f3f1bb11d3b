"""The whole stage as one call, without Kedro: each step's handle is saved as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinomill import tracking
from dinomill.curation.config import CurationConfig
from dinomill.curation.copies.deduplicate import deduplicate
from dinomill.curation.embedding.embed import embed_files
from dinomill.curation.gates.checks import check_files
from dinomill.curation.gates.contracts import EmbeddingsContract, ManifestContract
from dinomill.curation.page.report import write_report
from dinomill.curation.record import record
from dinomill.curation.scan.scan import LABELLED, POOL, SEEDS, scan
from dinomill.curation.selection.retrieve import check_names
from dinomill.curation.selection.select import select
from dinomill.curation.write import write_dataset
from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle
from dinomill.images.listing import split_tiles


def source_groups(pool: Sequence[Any], seeds: Mapping[str, str] | None, labelled: str | None) -> dict[str, list[str]]:
    """The sources of each group, in the order in which the scan lists them."""
    groups = {POOL: split_tiles(pool)[0]}
    if labelled:
        groups[LABELLED] = [labelled]
    return groups | {SEEDS + name: [place] for name, place in sorted((seeds or {}).items())}


def taken_whole(seeds: Mapping[str, str] | None, pool: Sequence[Any], config: CurationConfig) -> list[str]:
    """The groups of the seed sets whose own images go into the dataset.

    Raises:
        ConfigError: When the settings name a set that there is not, or a set's images are in the pool as well.
    """
    names = sorted(seeds or {})
    check_names(config.retrieval, names)
    whole = [name for name in names if config.retrieval.for_set(name).as_is]
    for name in whole:
        if seeds and seeds[name] in split_tiles(pool)[0]:
            raise ConfigError(
                f"The seed set {name!r} is to be taken whole (as_is), and its images are in the pool as well.",
                found=seeds[name],
                action="take it out of `pool` in globals.yml: each image needs one way into the dataset",
            )
    return [SEEDS + name for name in whole]


def curate(
    pool: Sequence[Any], seeds: Mapping[str, str] | None, labelled: str | None, config: CurationConfig
) -> DatasetHandle:
    """Curate a pool of images.

    Args:
        pool: Folders, tars, manifests or ``s3://`` prefixes; ``{"path": …, "tiles": {…}}`` for what is cut into tiles.
        seeds: Good, unlabelled examples: a name and a place each; None: nothing is irrelevant.
        labelled: Images that will be measured on: nothing close to them is kept.
        config: How, and where to.

    Raises:
        DinomillError: When an input cannot be used or does not meet its expectations.
    """
    folders, work, execution = config.folders, config.work, config.execution
    groups = source_groups(pool, seeds, labelled)
    whole = taken_whole(seeds, pool, config)
    found = scan(
        groups,
        config.scan,
        config.filters,
        whole=whole,
        tiles=split_tiles(pool)[1],
        folder=folders.scan,
        work=work,
        execution=execution,
    )
    found.save()
    check_files(found, config.gate, config.scan, folder=folders.quality, work=work).save()
    features = embed_files(found, config.embedding, folder=folders.embeddings, work=work, execution=execution)
    EmbeddingsContract(str(folders.quality), str(work), docs=config.gate.docs).validate(features).save()
    copies = deduplicate(
        found,
        features,
        config.deduplication,
        config.filters,
        folder=folders.duplicates,
        work=work,
        execution=execution,
    )
    copies.save()
    chosen = select(found, features, copies, config.retrieval, config.balance, config.filters, folder=folders.selection)
    chosen.save()
    dataset = write_dataset(
        found, features, chosen, config.write, config.filters, folder=folders.curated, work=work, execution=execution
    )
    write_report(found, features, chosen, config.filters, folder=folders.curated)
    record(tracking.attach(), dataset)
    ManifestContract(str(folders.quality), str(work), docs=config.gate.docs).validate(dataset).save()
    return dataset
