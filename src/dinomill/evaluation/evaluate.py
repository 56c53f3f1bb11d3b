"""The evaluation stage: every network on the same labelled images, by the same protocols, side by side."""

from __future__ import annotations

import logging

from dinomill.evaluation.attention import shown_attention
from dinomill.evaluation.bank_shares import bank_shares
from dinomill.evaluation.compare import SEEN, Comparison, compare
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.contract import check_tables
from dinomill.evaluation.features import Extraction, Images, compute_dtype, device
from dinomill.evaluation.networks import compared
from dinomill.evaluation.pictures import shown_rows
from dinomill.evaluation.protocols import build
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.results import Results
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.statistics import Bootstrap
from dinomill.evaluation.trained_on import check_not_trained_on
from dinomill.evaluation.write import Material, write_results
from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.storage.apart import require_apart
from dinomill.storage.atomic import fresh_folder

log = logging.getLogger(__name__)

LABELLED = "labelled"  # the set that `labelled` of globals.yml names


def evaluate(
    labelled: str | None,
    teacher: ModelHandle | None,
    students: StudentsHandle,
    config: EvaluationConfig,
    curated: DatasetHandle | None = None,
) -> EvaluationHandle:
    """Measure pixels, random networks, teacher and students on every labelled set; write tables, plots and features.

    Args:
        labelled: The main set; None when there are no labels: its table is then empty.
        teacher: The pretrained network; None where the students had another teacher.
        students: The distilled ones.
        config: Protocols, further sets and folders.
        curated: What they were trained on; None: unknown, and labelled images are not looked for in it.

    Raises:
        InputError: When a labelled set is not of its layout, was trained on, or an image of it cannot be decoded.
        ConfigError: When a reference lies where the results will.
        QualityError: When a table of scores does not meet its contract; nothing is written then.
    """
    for index, reference in enumerate(config.references):
        require_apart(f"evaluation.references.{index}.network", reference.network, config.output)
    for name, one in config.sets.items():
        require_apart(f"evaluation.sets.{name}.labelled", one.labelled, config.output)
    sets = ({} if labelled is None else {LABELLED: config.main(labelled)}) | config.sets
    if labelled is None:
        log.warning("There are no labelled images: nothing is measured, and registration cannot compare models.")
    if not sets:
        fresh_folder(config.quality)  # what an earlier run found is no longer true
        return write_results({}, None if teacher is None else teacher.weights_sha256, students, config)
    networks = compared(teacher, students, config.random, config.references, champion=config.champion, seed=config.seed)
    found: dict[str, Results] = {}
    for name, one in sets.items():
        data = read_set(one, name, one.limits(config.limits))
        if curated is not None:
            check_not_trained_on(data, curated.manifest, config.trained_on, near=name != LABELLED)
        protocols = [build(protocol, config.protocols) for protocol in one.measured]
        found[name] = compare(networks, data, protocols, comparison(config, len(data.queries), main=name == LABELLED))
    check_tables({name: results.table for name, results in found.items()}, config)
    material = pictured(found[LABELLED], config) if LABELLED in found else None
    measured = next((row.identity for row in networks if row.kind == "teacher"), None)
    return write_results(found, measured, students, config, material)


def pictured(results: Results, config: EvaluationConfig) -> Material:
    """What pictures need besides the scores: where class tokens look, and what probes reach with fewer labels."""
    data = results.data
    how = comparison(config, len(data.queries), main=True)
    queries = Images(data.queries.paths, data.query_files, f"{data.name}, queries")
    seen = [row for row in results.rows if row.network.kind in SEEN and how.shown]
    maps = {row.label: shown_attention(row.network, queries, how.shown, how.extraction) for row in seen}
    return Material(
        {label: found for label, found in maps.items() if found is not None},
        bank_shares(results, config.shares, how.settings),
    )


def comparison(config: EvaluationConfig, queries: int, *, main: bool) -> Comparison:
    """How networks are compared on a set."""
    rows = shown_rows(queries, config.shown_queries).tolist() if main else []
    return Comparison(
        Extraction(config.work, config.batch_size, compute_dtype(config.precision)),
        Bootstrap(config.bootstrap, config.confidence, config.seed),
        Settings(config.seed, config.batch_size, config.work, device(), config.precision),
        config.random.poolings,
        config.protocols.knn,
        tuple(rows),
    )
