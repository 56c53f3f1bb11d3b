"""The evaluation stage: every network on the same labelled images, with the same probes, side by side."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dinomill.errors import InputError
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.contract import check_scores
from dinomill.evaluation.features import Extraction, Features, compute_dtype, content_hash, extract
from dinomill.evaluation.measure import Labels, choose_k, measure
from dinomill.evaluation.networks import Network, compared
from dinomill.evaluation.results import Results, Row
from dinomill.evaluation.statistics import Bootstrap, Interval, difference
from dinomill.evaluation.write import write_results
from dinomill.handles import EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.images.labelled import LabelledPaths, find_labelled
from dinomill.models.config import Pooling
from dinomill.storage.atomic import fresh_folder

log = logging.getLogger(__name__)


def evaluate(
    labelled: str | None, teacher: ModelHandle, students: StudentsHandle, config: EvaluationConfig
) -> EvaluationHandle:
    """Measure pixels, random networks, teacher and students; write table, plots and features.

    Args:
        labelled: The folder ``<split>/<class>/<image>``; None when there are no labels: the table is then empty.
        teacher: The pretrained network.
        students: The distilled ones.
        config: Probes and folders.

    Raises:
        InputError: When the labelled folder is not of that layout, or an image of it cannot be decoded.
        QualityError: When the table of scores does not meet its contract; nothing is written then.
    """
    if labelled is None:
        log.warning("There are no labelled images: nothing is measured, and registration cannot compare models.")
        fresh_folder(config.quality)  # what an earlier run found is no longer true
        return write_results(None, teacher, students, config)
    if "://" in labelled:
        raise InputError(
            f"The labelled images {labelled} are not in a folder of this machine.",
            action="copy them, and set `labelled` in conf/local/globals.yml to the folder",
        )
    root = Path(labelled)
    bank = find_labelled(root, config.bank_split, limit=config.max_bank)
    queries = find_labelled(root, config.query_split, classes=bank.classes, limit=config.max_queries)
    _check(bank, root / config.bank_split)
    networks = compared(teacher, students, config.random, config.references, seed=config.seed)
    bank_hash, query_hash = content_hash(bank, root), content_hash(queries, root)
    settings = Extraction(config.work, config.batch_size, compute_dtype(config.precision))
    of_bank = extract(bank, networks, bank_hash, config.bank_split, settings)
    of_queries = extract(queries, networks, query_hash, config.query_split, settings)
    rows = _measure_all(networks, of_bank, of_queries, _labels(bank, queries), config)
    for row in rows:
        log.info("%s: kNN %s %%, linear probe %s %%", row.network.name, row.measured.knn, row.measured.linear)
    check_scores([row.score for row in rows], config.gate, folder=config.quality, work=config.work)
    results = Results(rows, bank, queries, root, f"{bank_hash[:32]}{query_hash[:32]}", _gains(rows, queries, config))
    return write_results(results, teacher, students, config)


def _measure_all(
    networks: list[Network],
    of_bank: list[Features],
    of_queries: list[Features],
    labels: Labels,
    config: EvaluationConfig,
) -> tuple[Row, ...]:
    strongest = _strongest_random(networks, of_bank, labels, config)
    rows = []
    for index, network in enumerate(networks):
        if network.kind == "random" and index != strongest[0]:
            continue
        pooling = strongest[1] if index == strongest[0] else network.pooling
        bank, queries = of_bank[index].pooled(pooling), of_queries[index].pooled(pooling)
        rows.append(Row(network, bank, queries, measure(bank, queries, labels, config)))
    return tuple(rows)


def _strongest_random(
    networks: list[Network], of_bank: list[Features], labels: Labels, config: EvaluationConfig
) -> tuple[int | None, Pooling]:
    """The random network and its pooling with the best kNN on the bank: a gain over a weak draw would be no gain.

    None where none was drawn.
    """
    candidates = [
        (index, pooling)
        for index, network in enumerate(networks)
        if network.kind == "random"
        for pooling in config.random.poolings
    ]
    if not candidates:
        return None, "cls"
    return max(
        candidates,
        key=lambda which: max(choose_k(of_bank[which[0]].pooled(which[1]), labels.bank, config).values()),
    )


def _gains(rows: tuple[Row, ...], queries: LabelledPaths, config: EvaluationConfig) -> dict[str, dict[str, Interval]]:
    """Paired differences that decide something: does training help, and what does distillation cost?"""
    by_kind = {row.network.kind: row for row in rows if row.network.kind != "student"}
    pairs: dict[str, tuple[Row, Row]] = {}
    for row in rows:
        of_student = row.network.kind == "student"
        if of_student or row.network.kind == "teacher":
            name = row.network.name if of_student else "teacher"
            others = ("start", "random", "teacher") if of_student else ("start", "pixels", "random")
            pairs |= {f"{name}_over_{kind}": (row, by_kind[kind]) for kind in others if kind in by_kind}
    settings = Bootstrap(config.bootstrap, config.confidence, config.seed)

    def right(predicted: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.equal(predicted, queries.labels)

    return {
        name: {
            "knn": difference(right(one.measured.knn_predicted), right(other.measured.knn_predicted), settings),
            "linear": difference(
                right(one.measured.linear_predicted), right(other.measured.linear_predicted), settings
            ),
        }
        for name, (one, other) in pairs.items()
    }


def _labels(bank: LabelledPaths, queries: LabelledPaths) -> Labels:
    return Labels(torch.from_numpy(bank.labels), torch.from_numpy(queries.labels))


def _check(bank: LabelledPaths, folder: Path) -> None:
    counts = np.bincount(bank.labels, minlength=len(bank.classes))
    if len(bank.classes) < 2 or counts.max() < 2:
        raise InputError(
            f"{folder} is too little to measure with.",
            found=f"{len(bank.classes)} classes, at most {counts.max()} images in one",
            expected="at least two classes, and several images in each",
            action="put more labelled images there, or set `labelled` in conf/local/globals.yml to null",
        )
