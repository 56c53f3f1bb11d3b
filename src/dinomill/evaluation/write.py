"""What evaluation leaves on disk, whole or not at all.

<output>/handle.json              EvaluationHandle
<output>/metrics.json             kNN and linear probe by model, in percent: DVC's metrics
<output>/results.json             the same with intervals and differences, the images' number and hash
<output>/scores.csv               the table, a row a model
<output>/images.parquet           a row a query: path, label, predicted class by each model and probe
<output>/neighbours.parquet       shown queries: model, query, rank, neighbour, similarity, whether of the same class
<output>/features/<label>.npy     [Q, D] float16, a row a query; labels: pixels, random, start, teacher, student-<name>
<output>/patches/<label>.npy      [M, h, w, D] float16, patch tokens of the shown queries, of start, teacher, students
<output>/patches/images.json      their paths, in order
<output>/plots/*.svg              scores, differences, accuracy by k, confusion of the teacher
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.features import patch_tokens
from dinomill.evaluation.plots import write_plots
from dinomill.evaluation.results import Results, Row
from dinomill.evaluation.statistics import Interval
from dinomill.handles import Difference, EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.storage.atomic import atomic_folder, write_parquet, write_text
from dinomill.storage.hashing import hash_json
from dinomill.vectors.knn import nearest

METRICS_NAME = "metrics.json"
RESULTS_NAME = "results.json"


def write_results(
    results: Results | None, teacher: ModelHandle, students: StudentsHandle, config: EvaluationConfig
) -> EvaluationHandle:
    """Write everything and return the handle; None writes the empty table of a project without labels."""
    with atomic_folder(config.output) as folder:
        for name, content in ((METRICS_NAME, metrics(results)), (RESULTS_NAME, figures(results))):
            write_text(folder / name, json.dumps(content, indent=2, sort_keys=True) + "\n")
        if results is not None:
            _write_table(folder / "scores.csv", results)
            _write_images(folder / "images.parquet", results)
            _write_shown(folder, results, config)
            write_plots(folder / "plots", results)
            (folder / "features").mkdir()
            for row in results.rows:
                np.save(folder / "features" / f"{row.label}.npy", row.queries.half().numpy(), allow_pickle=False)
        handle = EvaluationHandle(
            folder=config.output,
            # Not of the gate: how strictly a table is looked at changes nothing in it.
            config_hash=hash_json(config.model_dump(mode="json", exclude={"gate"})),
            scores=tuple(row.score for row in results.rows) if results else (),
            gains=_differences(results) if results else {},
            bank_images=len(results.bank) if results else 0,
            query_images=len(results.queries) if results else 0,
            classes=results.bank.classes if results else (),
            metrics=config.output / METRICS_NAME,
            teacher_sha256=teacher.weights_sha256,
            students_sha256={name: student.weights_sha256 for name, student in students.students.items()},
        )
        write_text(folder / "handle.json", handle.model_dump_json(indent=2) + "\n")
    return handle


def metrics(results: Results | None) -> dict[str, dict[str, float]]:
    """What `dvc metrics` shows side by side: few numbers with short names; points, where models are compared."""
    if results is None:
        return {}
    over_start = {
        name: {
            f"{probe}{end}": round(100 * getattr(interval, part), 2)
            for probe, interval in probes.items()
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        for name, probes in results.gains.items()
        if name.endswith("_over_start")
    }
    return over_start | {
        row.label: {
            "knn": round(100 * row.measured.knn.value, 2),
            "linear": round(100 * row.measured.linear.value, 2),
        }
        for row in results.rows
    }


def figures(results: Results | None) -> dict[str, object]:
    """Everything that was measured, as fractions with their intervals."""
    if results is None:
        return {}
    found: dict[str, object] = {}
    for row in results.rows:
        found[row.label] = {
            "knn": _leaf(row.measured.knn),
            "linear": _leaf(row.measured.linear),
            "k": row.measured.k,
            "l2": row.measured.l2,
            "parameters": row.network.parameters,
        }
    found["gain"] = {
        name: {probe: _leaf(interval) for probe, interval in probes.items()} for name, probes in results.gains.items()
    }
    found["images"] = {"bank": len(results.bank), "queries": len(results.queries), "sha256": results.data_sha256}
    return found


def _differences(results: Results) -> dict[str, dict[str, Difference]]:
    return {
        name: {probe: Difference(**_leaf(interval)) for probe, interval in probes.items()}
        for name, probes in results.gains.items()
    }


def _leaf(interval: Interval) -> dict[str, float]:
    return {name: round(getattr(interval, name), 6) for name in ("value", "low", "high")}


def _write_table(path: Path, results: Results) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "model",
                "kind",
                "parameters",
                "knn",
                "knn_low",
                "knn_high",
                "linear",
                "linear_low",
                "linear_high",
                "k",
                "l2",
            ]
        )
        for row in results.rows:
            m = row.measured
            figures = (m.knn.value, m.knn.low, m.knn.high, m.linear.value, m.linear.low, m.linear.high)
            shown = [f"{value:.4f}" for value in figures]
            writer.writerow([row.network.name, row.network.kind, row.network.parameters, *shown, m.k, f"{m.l2:g}"])


def _write_images(path: Path, results: Results) -> None:
    classes = np.array(results.queries.classes, dtype=object)
    columns: dict[str, object] = {
        "path": [item.relative_to(results.root).as_posix() for item in results.queries.paths],
        "label": classes[results.queries.labels].tolist(),
    }
    for row in results.rows:
        columns[f"{row.label}_knn"] = classes[row.measured.knn_predicted].tolist()
        columns[f"{row.label}_linear"] = classes[row.measured.linear_predicted].tolist()
    write_parquet(path, pa.table(columns))


def _write_shown(folder: Path, results: Results, config: EvaluationConfig) -> None:
    """Neighbours and patch tokens of a few queries, evenly from all of them (they are ordered by class)."""
    count = min(config.shown_queries, len(results.queries))
    if count == 0:
        return
    chosen = np.linspace(0, len(results.queries) - 1, count).round().astype(int)
    rows: list[dict[str, object]] = []
    for row in results.rows:
        rows += _neighbours(row, results, chosen, config.shown_neighbours)
    write_parquet(folder / "neighbours.parquet", pa.Table.from_pylist(rows))
    patches = folder / "patches"
    patches.mkdir()
    paths = [results.queries.paths[index] for index in chosen]
    names = [path.relative_to(results.root).as_posix() for path in paths]
    write_text(patches / "images.json", json.dumps(names, indent=2, ensure_ascii=False) + "\n")
    for row in results.rows:
        if row.network.kind in ("start", "teacher", "student"):
            tokens, side = patch_tokens(paths, row.network, config.batch_size)
            np.save(patches / f"{row.label}.npy", tokens.reshape(count, side, side, -1), allow_pickle=False)


def _neighbours(row: Row, results: Results, chosen: np.ndarray, wanted: int) -> list[dict[str, object]]:
    similarities, found = nearest(row.queries[chosen], row.bank, wanted)
    bank, queries = results.bank, results.queries
    return [
        {
            "model": row.label,
            "query": queries.paths[query].relative_to(results.root).as_posix(),
            "query_label": queries.classes[queries.labels[query]],
            "rank": rank,
            "neighbour": bank.paths[index].relative_to(results.root).as_posix(),
            "neighbour_label": bank.classes[bank.labels[index]],
            "similarity": similarity,
            "same_class": bool(bank.labels[index] == queries.labels[query]),
        }
        for position, query in enumerate(chosen)
        for rank, (index, similarity) in enumerate(
            zip(found[position].tolist(), similarities[position].tolist(), strict=True), start=1
        )
    ]
