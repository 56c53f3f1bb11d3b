"""What is kept of a few queries so that a report can show them: neighbours, patch tokens, attention.

Two lots of queries have their neighbours kept. Those drawn *evenly* from all say how it usually is; the *failures*, of
every model, are drawn evenly from the queries on which its neighbours' vote was wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from dinomill.arrays import Rows
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.results import Results, Row
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import Halves
from dinomill.storage.atomic import write_parquet, write_text
from dinomill.vectors.knn import nearest

EVENLY, FAILURE = "evenly", "failure"  # how a query was drawn
_VOTE = "knn"  # the measure whose wrong answers are failures


def write_shown(
    folder: Path, results: Results, config: EvaluationConfig, attention: Mapping[str, Halves] | None = None
) -> None:
    """Write ``neighbours.parquet``, ``patches/`` and ``attention/``; nothing of a set without classes.

    Args:
        folder: The stage's.
        results: Of the labelled images.
        config: How many.
        attention: By a row's label, of the queries of ``shown_rows``.
    """
    data = results.data
    if not isinstance(data, ClassifiedSet):
        return
    chosen = shown_rows(len(data.queries), config.shown_queries)
    if not len(chosen):
        return
    lines = []
    for row in results.rows:
        lines += _neighbours(row, data, chosen, config.shown_neighbours, EVENLY)
        failed = failed_rows(row, data, config.shown_failures)
        lines += _neighbours(row, data, failed, config.shown_neighbours, FAILURE)
    write_parquet(folder / "neighbours.parquet", pa.Table.from_pylist(lines))
    patches = folder / "patches"
    patches.mkdir()
    names = [data.shown(data.queries.paths[index]) for index in chosen]
    write_text(patches / "images.json", json.dumps(names, indent=2, ensure_ascii=False) + "\n")
    for row in results.rows:
        if row.features.queries.shown is not None:
            np.save(patches / f"{row.label}.npy", row.features.queries.shown, allow_pickle=False)
    (folder / "attention").mkdir()
    for label, maps in (attention or {}).items():
        np.save(folder / "attention" / f"{label}.npy", maps, allow_pickle=False)


def shown_rows(queries: int, wanted: int) -> Rows:
    """Which queries are shown: evenly from all of them, for they are ordered by class."""
    count = min(wanted, queries)
    rows: Rows = np.linspace(0, queries - 1, count).round().astype(np.int64)
    return rows


def failed_rows(row: Row, data: ClassifiedSet, wanted: int) -> Rows:
    """Queries on which a network's neighbours voted for another class, evenly from all such; none without kNN."""
    vote = _vote(row)
    wrong: Rows = np.zeros(0, np.int64) if vote is None else np.flatnonzero(vote != data.queries.labels)
    return wrong[shown_rows(len(wrong), wanted)] if len(wrong) else wrong


def _vote(row: Row) -> Rows | None:
    return row.measured[_VOTE].predicted if _VOTE in row.measured else None


def _neighbours(row: Row, data: ClassifiedSet, chosen: Rows, wanted: int, drawn: str) -> list[dict[str, object]]:
    features, bank, queries, vote = row.features, data.bank, data.queries, _vote(row)
    similarities, found = nearest(features.queries.embedding[chosen], features.bank.embedding, wanted)
    return [
        {
            "model": row.label,
            "query": data.shown(queries.paths[query]),
            "query_label": queries.classes[queries.labels[query]],
            "drawn": drawn,
            "vote": None if vote is None else queries.classes[vote[query]],
            "rank": rank,
            "neighbour": data.shown(bank.paths[index]),
            "neighbour_label": bank.classes[bank.labels[index]],
            "similarity": similarity,
            "same_class": bool(bank.labels[index] == queries.labels[query]),
        }
        for position, query in enumerate(chosen)
        for rank, (index, similarity) in enumerate(
            zip(found[position].tolist(), similarities[position].tolist(), strict=True), start=1
        )
    ]
