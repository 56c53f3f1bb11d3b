"""The evaluation stage: every network on the same labelled images, by the same protocols, side by side."""

from __future__ import annotations

import logging

from dinomill.evaluation.compare import Comparison, compare
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.contract import check_tables
from dinomill.evaluation.features import Extraction, compute_dtype, device
from dinomill.evaluation.networks import compared
from dinomill.evaluation.protocols import build
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.results import Results
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.statistics import Bootstrap
from dinomill.evaluation.trained_on import check_not_trained_on
from dinomill.evaluation.write import shown_rows, write_results
from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.storage.atomic import fresh_folder

log = logging.getLogger(__name__)

LABELLED = "labelled"  # the set that `labelled` of globals.yml names


def evaluate(
    labelled: str | None,
    teacher: ModelHandle,
    students: StudentsHandle,
    config: EvaluationConfig,
    curated: DatasetHandle | None = None,
) -> EvaluationHandle:
    """Measure pixels, random networks, teacher and students on every labelled set; write tables, plots and features.

    Args:
        labelled: The main set; None when there are no labels: its table is then empty.
        teacher: The pretrained network.
        students: The distilled ones.
        config: Protocols, further sets and folders.
        curated: What they were trained on; None: unknown, and labelled images are not looked for in it.

    Raises:
        InputError: When a labelled set is not of its layout, was trained on, or an image of it cannot be decoded.
        QualityError: When a table of scores does not meet its contract; nothing is written then.
    """
    sets = ({} if labelled is None else {LABELLED: config.main(labelled)}) | config.sets
    if labelled is None:
        log.warning("There are no labelled images: nothing is measured, and registration cannot compare models.")
    if not sets:
        fresh_folder(config.quality)  # what an earlier run found is no longer true
        return write_results({}, teacher, students, config)
    networks = compared(teacher, students, config.random, config.references, champion=config.champion, seed=config.seed)
    found: dict[str, Results] = {}
    for name, one in sets.items():
        data = read_set(one, name, one.limits(config.limits))
        if curated is not None:
            check_not_trained_on(data, curated.manifest, config.trained_on, near=name != LABELLED)
        protocols = [build(protocol, config.protocols) for protocol in one.measured]
        found[name] = compare(networks, data, protocols, comparison(config, len(data.queries), main=name == LABELLED))
    check_tables({name: results.table for name, results in found.items()}, config)
    return write_results(found, teacher, students, config)


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
