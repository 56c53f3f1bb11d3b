"""How many labelled images would help: what probes reach with a part of the bank, on features that stay as they are.

Parts are drawn class by class and nested: the images of a smaller one lie in the larger ones of the same draw. The
whole bank is what the table has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from dinomill.arrays import Rows
from dinomill.evaluation.config import SharesConfig
from dinomill.evaluation.protocols.base import Protocol, Settings
from dinomill.evaluation.results import Results, Row
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import NetworkFeatures, SplitFeatures
from dinomill.images.labelled import LabelledPaths

SCHEMA = pa.schema(
    {"model": pa.string(), "measure": pa.string(), "images": pa.int64(), "draw": pa.int64(), "value": pa.float64()}
)
# Rows that are measured so: what is trained here. A wide reference's probes would cost more than all others together.
_ROWS = ("start", "champion", "teacher", "student")


def bank_shares(results: Results, config: SharesConfig, settings: Settings) -> pa.Table:
    """Accuracy by number of labelled images: a row a model, measure, number and draw.

    Args:
        results: Of a set of classes; of other kinds nothing is computed.
        config: Shares and draws.
        settings: As the protocols were measured with.
    """
    data = results.data
    if not isinstance(data, ClassifiedSet) or not config.parts:
        return SCHEMA.empty_table()
    chosen = [one for one in results.protocols if one.name in config.protocols]
    rows = [row for row in results.rows if row.network.kind in _ROWS]
    found: list[dict[str, Any]] = []
    for draw in range(config.draws):
        order = drawn_by_class(data.bank.labels, settings.seed + draw)
        for share in config.parts:
            part = part_of(order, data.bank.labels, share)
            # One image of every class: nothing could be held out, by which a probe chooses.
            if len(part) > config.max_images or np.bincount(data.bank.labels[part]).max() < 2:
                continue
            smaller = replace(data, bank=_split(data.bank, part))
            found += [
                {"model": row.label, "measure": name, "images": len(part), "draw": draw, "value": value}
                for row in rows
                for name, value in _measured(chosen, row, smaller, part, settings).items()
            ]
    names = {measure.name for protocol in chosen for measure in protocol.measures(data)}
    found += [
        {"model": row.label, "measure": name, "images": len(data.bank), "draw": 0, "value": row.figures[name].value}
        for row in rows
        for name in row.figures
        if name in names
    ]
    return pa.Table.from_pylist(found, schema=SCHEMA)


def drawn_by_class(labels: Rows, seed: int) -> dict[int, Rows]:
    """The images of every class in a drawn order: the first of them are a part."""
    generator = np.random.default_rng(seed)
    return {int(label): generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}


def part_of(order: Mapping[int, Rows], labels: Rows, share: float) -> Rows:
    """Rows of a share of every class, in the bank's order; at least one image a class.

    Args:
        order: Of ``drawn_by_class``.
        labels: ``[B]``, for the number of rows.
        share: Of 0 to 1.
    """
    taken = np.zeros(len(labels), dtype=bool)
    for rows in order.values():
        taken[rows[: max(1, round(share * len(rows)))]] = True
    return np.flatnonzero(taken)


def _measured(
    protocols: Sequence[Protocol[Any, Any]], row: Row, data: ClassifiedSet, part: Rows, settings: Settings
) -> dict[str, float]:
    features = row.features
    bank = SplitFeatures(features.bank.cls[part], features.bank.mean_patch[part], features.bank.pooling)
    smaller = NetworkFeatures(features.network, bank, features.queries)
    return {
        name: one.outcomes.value
        for protocol in protocols
        for name, one in protocol.measure(smaller, data, settings).items()
    }


def _split(bank: LabelledPaths, part: Rows) -> LabelledPaths:
    return LabelledPaths(tuple(bank.paths[row] for row in part), bank.labels[part], bank.classes)
