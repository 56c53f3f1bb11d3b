"""What evaluation leaves on disk, whole or not at all.

<output>/handle.json              EvaluationHandle
<output>/metrics.json             every measure by model (of fractions, per cent): DVC's metrics; further sets by name
<output>/results.json             the same with intervals and differences, the images' number and hash
<output>/scores.csv               the table, a row a model
<output>/images.parquet           a row a query: path, label, what every model and protocol said or reached
<output>/neighbours.parquet       shown queries: model, query, how drawn, vote, rank, neighbour, similarity, same class?
<output>/bank_shares.parquet      accuracy of each model by number of labelled images: see ``bank_shares``
<output>/features/<label>.npy     [Q, D] float16, a row a query; labels: pixels, random, start, teacher, student-<name>
<output>/patches/<label>.npy      [M, h, w, D] float16, patch tokens of the shown queries, of start, teacher, students
<output>/patches/images.json      their paths, in order
<output>/attention/<label>.npy    [M, heads, h, w] float16, of the class token to their patches, of those that have one
<output>/plots/*.svg              scores, differences, and what the protocols draw
<output>/probes/…                 linear probes that a server can answer with: see ``probes``
<output>/sets/<name>/…            of every further set: scores.csv, images.parquet, plots/
<work>/times/<made_of>.json       what was taken with a clock, which no two runs have in common: Times
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dinomill.evaluation.bank_shares import SCHEMA as SHARES
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.pictures import write_shown
from dinomill.evaluation.plots import write_plots
from dinomill.evaluation.probes import write_probes
from dinomill.evaluation.results import Results, leaf
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import Halves
from dinomill.evaluation.statistics import Mean
from dinomill.handles import EvaluationHandle, StudentsHandle
from dinomill.scores import ScoreTable, Times, times_of
from dinomill.storage.atomic import atomic_folder, write_parquet, write_text
from dinomill.storage.hashing import hash_json

METRICS_NAME = "metrics.json"
RESULTS_NAME = "results.json"
MAIN = "labelled"


@dataclass(frozen=True)
class Material:
    """What was computed of the labelled images for pictures alone.

    Args:
        attention: By a row's label, of the shown queries ``[M, heads, h, w]``.
        shares: Accuracy by number of labelled images.
    """

    attention: Mapping[str, Halves] = field(default_factory=dict)
    shares: pa.Table = field(default_factory=SHARES.empty_table)


def write_results(
    found: Mapping[str, Results],
    teacher_sha256: str | None,
    students: StudentsHandle,
    config: EvaluationConfig,
    material: Material | None = None,
) -> EvaluationHandle:
    """Write everything and return the handle.

    Args:
        found: By set, the labelled images' as ``labelled``; nothing in a project without labels.
        teacher_sha256: Weights of the teacher that was measured; None: none was.
        students: That were measured.
        config: Where it goes.
        material: For pictures of the labelled images.
    """
    material = material or Material()
    made_of = _made_of(found, teacher_sha256, students, config)
    times = {name: results.table.of_a_clock for name, results in found.items()}
    found = {name: results.lasting() for name, results in found.items()}
    main, others = found.get(MAIN), {name: results for name, results in found.items() if name != MAIN}
    with atomic_folder(config.output) as folder:
        for name, content in ((METRICS_NAME, metrics), (RESULTS_NAME, figures)):
            by_set = content(main) | {other: content(results) for other, results in others.items()}
            write_text(folder / name, json.dumps(by_set, indent=2, sort_keys=True) + "\n")
        if main is not None:
            _write_set(folder, main)
            write_shown(folder, main, config, material.attention)
            if material.shares.num_rows:
                write_parquet(folder / "bank_shares.parquet", material.shares)
            (folder / "features").mkdir()
            for row in main.rows:
                queries = row.features.queries.embedding.half().numpy()
                np.save(folder / "features" / f"{row.label}.npy", queries, allow_pickle=False)
        for name, results in others.items():
            (folder / "sets" / name).mkdir(parents=True)
            _write_set(folder / "sets" / name, results)
        write_probes(folder, main if main is not None and isinstance(main.data, ClassifiedSet) else None, config)
        table = ScoreTable() if main is None else main.table
        handle = EvaluationHandle(
            folder=config.output,
            made_of=made_of,
            **{name: getattr(table, name) for name in ScoreTable.model_fields},
            sets={name: results.table for name, results in others.items()},
            metrics=config.output / METRICS_NAME,
            teacher_sha256=teacher_sha256,
            students_sha256={name: student.weights_sha256 for name, student in students.students.items()},
            timed=tuple(dict.fromkeys(one.name for table in times.values() for one in table.measures)),
            champion_sha256=None
            if main is None or (present := main.row("champion")) is None
            else present.network.identity,
        )
        # Before the results, which may then be without them, but never with another one's.
        kept = Times(made_of=made_of, tables={"" if name == MAIN else name: table for name, table in times.items()})
        if any(table.measures for table in times.values()):
            write_text(times_of(config.work, made_of), kept.model_dump_json(indent=2) + "\n")
        handle.save(folder)
    return handle


def _made_of(
    found: Mapping[str, Results], teacher_sha256: str | None, students: StudentsHandle, config: EvaluationConfig
) -> str:
    """What the figures depend on: not how strictly a table is looked at, nor where the results lie.

    Of every row the network counts, too: an alias or a path may name another one than it did.
    """
    settings = config.model_dump(mode="json", exclude={"gate", "output", "work"})
    weights = {name: student.weights_sha256 for name, student in students.students.items()}
    images = {name: results.data.sha256 for name, results in found.items()}
    networks = {name: {row.label: row.network.identity for row in results.rows} for name, results in found.items()}
    return hash_json([settings, teacher_sha256, weights, images, networks])


def _write_set(folder: Path, results: Results) -> None:
    _write_table(folder / "scores.csv", results)
    _write_images(folder / "images.parquet", results)
    write_plots(folder / "plots", results)


def metrics(results: Results | None) -> dict[str, Any]:
    """What `dvc metrics` shows side by side: few numbers with short names; points, where models are compared."""
    if results is None:
        return {}
    scale = {measure.name: measure.scale for measure in results.measures}
    digits = {measure.name: 2 if measure.percent else 4 for measure in results.measures}
    over_start = {
        name: {
            f"{measure}{end}": round(scale[measure] * getattr(gain, part), digits[measure])
            for measure, gain in gains.items()
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        for name, gains in results.gains.items()
        if name.endswith("_over_start")
    }
    return over_start | {
        row.label: {name: round(scale[name] * figure.value, digits[name]) for name, figure in row.figures.items()}
        for row in results.rows
    }


def figures(results: Results | None) -> dict[str, Any]:
    """Everything that was measured, in its own unit (shares as fractions), with intervals."""
    if results is None:
        return {}
    found: dict[str, Any] = {
        row.label: {
            **{name: leaf(figure) for name, figure in row.figures.items()},
            **row.chosen,
            "parameters": row.network.parameters,
        }
        for row in results.rows
    }
    found["gain"] = {
        name: {measure: leaf(gain) for measure, gain in gains.items()} for name, gains in results.gains.items()
    }
    data = results.data
    found["images"] = {"bank": len(data.bank), "queries": len(data.queries), "sha256": data.sha256}
    return found


def _write_table(path: Path, results: Results) -> None:
    chosen = list(dict.fromkeys(name for row in results.rows for name in row.chosen))
    names = [measure.name for measure in results.measures]
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "kind", "parameters", *columns, *chosen])
        for row in results.rows:
            shown = [f"{getattr(row.figures[name], end):.4f}" for name in names for end in ("value", "low", "high")]
            choices = [f"{row.chosen[name]:g}" if name in row.chosen else "" for name in chosen]
            writer.writerow([row.network.name, row.network.kind, row.network.parameters, *shown, *choices])


def _write_images(path: Path, results: Results) -> None:
    """What was said of every query, or what it reached, where a score is a mean over them."""
    data = results.data
    columns: dict[str, object] = {"path": [data.shown(item) for item in data.queries.paths]}
    names = np.array(data.classes, dtype=object)
    if isinstance(data, ClassifiedSet):
        columns["label"] = names[data.queries.labels].tolist()
    for row in results.rows:
        for measure, one in row.measured.items():
            if one.predicted is not None:
                columns[f"{row.label}_{measure}"] = names[one.predicted].tolist()
            elif isinstance(one.outcomes, Mean):
                columns[f"{row.label}_{measure}"] = one.outcomes.each
    write_parquet(path, pa.table(columns))
