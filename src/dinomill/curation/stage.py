"""The whole stage as one call, without Kedro: each step's handle is saved as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinomill.curation.checks import check_files
from dinomill.curation.config import CurationConfig
from dinomill.curation.contracts import EmbeddingsContract, ManifestContract
from dinomill.curation.deduplicate import deduplicate
from dinomill.curation.embed import embed_files
from dinomill.curation.report import write_report
from dinomill.curation.scan import LABELLED, POOL, SEEDS, scan
from dinomill.curation.select import select
from dinomill.curation.write import write_dataset
from dinomill.handles import DatasetHandle


def source_groups(pool: Sequence[str], seeds: Mapping[str, str] | None, labelled: str | None) -> dict[str, list[str]]:
    """The sources of each group, in the order in which the scan lists them."""
    groups = {POOL: list(pool)}
    if labelled:
        groups[LABELLED] = [labelled]
    return groups | {SEEDS + name: [place] for name, place in sorted((seeds or {}).items())}


def curate(
    pool: Sequence[str], seeds: Mapping[str, str] | None, labelled: str | None, config: CurationConfig
) -> DatasetHandle:
    """Curate a pool of images.

    Args:
        pool: Folders, tars, manifests or ``s3://`` prefixes.
        seeds: Good, unlabelled examples: a name and a place each; None: nothing is irrelevant.
        labelled: Images that will be measured on: nothing close to them is kept.
        config: How, and where to.

    Raises:
        DinomillError: When an input cannot be used or does not meet its expectations.
    """
    folders, work, execution = config.folders, config.work, config.execution
    groups = source_groups(pool, seeds, labelled)
    found = scan(groups, config.scan, folder=folders.scan, work=work, execution=execution)
    found.save()
    check_files(found, config.gate, config.scan, folder=folders.quality, work=work).save()
    features = embed_files(found, config.embedding, folder=folders.embeddings, work=work, execution=execution)
    EmbeddingsContract(str(folders.quality), str(folders.work), docs=config.gate.docs).validate(features).save()
    copies = deduplicate(found, features, config.deduplication, config.filters, folder=folders.duplicates)
    copies.save()
    chosen = select(found, features, copies, config.retrieval, config.balance, config.filters, folder=folders.selection)
    chosen.save()
    dataset = write_dataset(
        found, features, chosen, config.write, folder=folders.curated, work=work, execution=execution
    )
    write_report(found, features, chosen, folder=folders.curated)
    ManifestContract(str(folders.quality), str(folders.work), docs=config.gate.docs).validate(dataset).save()
    return dataset
