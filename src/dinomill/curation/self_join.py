"""All rows against themselves: the neighbours of every row, by looking only where they can be.

<scratch>/<hash>/cells/     rows by cell (cells.py)
<scratch>/<hash>/parts/     neighbours of the rows of some cells; done markers beside them

An index answers one question after the other. Here all questions are known, so those of one cell are asked together:
its rows times the rows of the cells around it are one matrix product, what a processor does best. Which cells count as
around it is set by a sample that is compared with all rows; how much that finds is measured on another sample.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.cells import Cells, open_cells, write_cells
from dinomill.curation.neighbours import SearchConfig, SearchReport
from dinomill.curation.products import Best, Floats, Rows, Scored, Vectors, blocks, brute_force, joined, one_thread
from dinomill.execution.progress import progress
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, run_tasks
from dinomill.storage.atomic import atomic_file
from dinomill.storage.hashing import hash_bytes, hash_json

_ROWS_PER_TASK = 16_384
_COLUMNS = 16_384  # rows that a cell is compared with at once: 32 MB of similarities
_ROUNDING = 5e-4  # what float16 rows may change a similarity by, amply


class Question(Config):
    """What is asked about every row."""

    neighbours: int = Field(ge=1, description="nearest rows wanted, without the row itself")
    floor: float = Field(default=-1.0, description="similarity below which a neighbour is of no interest")
    crowd: int | None = Field(default=None, ge=1, description="also say how similar this neighbour is (1: the nearest)")


class Scratch(NamedTuple):
    """Where unfinished work lies, and who does it."""

    folder: Path
    key: str  # says what the vectors are: equal keys, equal vectors
    execution: ExecutionConfig


class Joined(NamedTuple):
    """The answer."""

    pairs: Scored  # each row's nearest rows that reach the floor
    crowd: Floats  # [rows]: similarity of the neighbour asked for; -1 where there are fewer
    report: SearchReport


class JoinTask(Task):
    """The rows of some cells, to be compared with the cells around each."""

    cells: Path
    key: str
    first: int
    last: int
    question: Question
    probes: int
    closeness: float = Field(description="cells are looked at whose centre is at least as similar to the cell's own")
    folder: Path


class JoinPart(TaskResult):
    """One ``.npz``: query, row, similarity; crowd of each row of the cells."""

    compared: int = Field(description="pairs of rows compared")


def join(
    vectors: Vectors, rows: Rows, question: Question, config: SearchConfig, *, name: str, scratch: Scratch | None = None
) -> Joined:
    """The nearest ``rows`` of each of ``rows``: exact for few, else in cells.

    Args:
        vectors: All rows.
        rows: The rows to compare, in order.
        question: What is asked.
        config: How.
        name: For the progress bar.
        scratch: For many rows; none: a temporary folder, and processes on this machine.
    """
    if len(rows) <= config.exact_up_to:
        return _exact(vectors, rows, question, name)
    room: AbstractContextManager[str | Path] = tempfile.TemporaryDirectory() if scratch is None else nullcontext("")
    with room as temporary:
        place = scratch or Scratch(Path(temporary), "", ExecutionConfig())
        return _in_cells(vectors, rows, question, config, name, place)


def _exact(vectors: Vectors, rows: Rows, question: Question, name: str) -> Joined:
    pairs, crowds = [], []
    with progress(name, len(rows)) as bar:
        for block in blocks(rows, 16_384):
            found = _of_others(vectors, block, rows, question)
            crowds.append(_crowd(found, len(block), question))
            pairs.append(_named(found, block, question))
            bar.advance(len(block))
    report = SearchReport(kind="exact", rows=len(rows), recall=1.0)
    return Joined(joined(pairs), np.concatenate([*crowds, np.empty(0, np.float32)]), report)


def _of_others(vectors: Vectors, queries: Rows, rows: Rows, question: Question) -> Scored:
    """The neighbours of some of the rows by brute force, the row itself left out; ``query`` counts the queries."""
    k = question.neighbours
    found = brute_force(vectors.take(queries), vectors, rows, k + 1, _floor(question))
    others = found.row != queries[found.query]
    found = found.only(others)
    count = np.bincount(found.query, minlength=len(queries))
    rank = np.arange(len(found.query)) - np.repeat(np.cumsum(count) - count, count)
    return found.only(rank < k)  # one of many equal rows may not have found itself


def _in_cells(
    vectors: Vectors, rows: Rows, question: Question, config: SearchConfig, name: str, scratch: Scratch
) -> Joined:
    key = hash_json([scratch.key, hash_bytes(rows.tobytes()), config.cell_rows, config.seed])
    folder = scratch.folder / key[:16]
    if not (folder / "cells").exists():
        write_cells(vectors, rows, config.cell_rows, config.seed, folder=folder / "cells")
    cells = open_cells(folder / "cells")
    generator = np.random.default_rng(config.seed + 1)
    asked = np.sort(generator.choice(rows, min(config.check_queries, len(rows)), replace=False))
    truth = _of_others(vectors, asked, rows, question) if len(asked) else joined([])
    setting = truth.query % 2 == 0  # one half sets how far to look, the other measures what that finds
    closeness = _closeness(cells, asked, truth.only(setting), config)
    tasks = _tasks(cells, key, question, config, closeness, folder)
    parts = run_tasks(join_cells, tasks, JoinPart, done=folder / "done", config=scratch.execution, name=name)
    pairs, crowd = _collected(parts, cells, rows)
    recall, checked = _recall(pairs, asked, truth.only(~setting), question)
    share = sum(part.compared for part in parts) / len(rows) ** 2
    kind = f"in {len(cells.centres):,} cells; {share:.2%} of all pairs compared"
    return Joined(pairs, crowd, SearchReport(kind=kind, rows=len(rows), recall=recall, checked=checked))


def join_cells(task: JoinTask) -> JoinPart:
    """Compare the rows of some cells with the cells around them."""
    cells = open_cells(task.cells)
    held: dict[int, Floats] = {}
    found, crowds, compared = [], [], 0
    with one_thread():
        closeness = cells.centres[task.first : task.last] @ cells.centres.T
        for cell in range(task.first, task.last):
            near = _around(closeness[cell - task.first], cell, task.probes, task.closeness)
            held = {one: held[one] if one in held else _read(cells, one) for one in near.tolist()}
            queries = _members(cells, cell)
            here = _compare(cells, queries, held[cell], held, task.question)
            crowds.append(_crowd(here, len(queries), task.question))
            found.append(_named(here, queries, task.question))
            compared += len(queries) * sum(len(rows) for rows in held.values())
    pairs = joined(found)
    path = task.folder / f"{task.content_hash()[:16]}.npz"
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, query=pairs.query, row=pairs.row, similarity=pairs.similarity, crowd=np.concatenate(crowds))
    return JoinPart(outputs=(path,), compared=compared)


def _around(closeness: Floats, cell: int, probes: int, limit: float) -> Rows:
    """The cells to look at: the closest ``probes``, and all that are as close as the limit; the cell itself too."""
    probes = min(probes, len(closeness))
    nearest = np.argpartition(-closeness, probes - 1)[:probes]
    return np.unique(np.concatenate([nearest, np.flatnonzero(closeness >= limit), [cell]]))


def _members(cells: Cells, cell: int) -> Rows:
    return cells.order[cells.starts[cell] : cells.starts[cell + 1]]


def _read(cells: Cells, cell: int) -> Floats:
    return cells.rows[cells.starts[cell] : cells.starts[cell + 1]].astype(np.float32)


def _compare(cells: Cells, queries: Rows, own: Floats, around: dict[int, Floats], question: Question) -> Scored:
    """The nearest rows of a cell's rows in the cells around it."""
    best = Best(len(queries), question.neighbours, _floor(question))
    waiting: list[int] = []
    width = 0
    for cell in [*around, -1]:
        size = 0 if cell < 0 else len(around[cell])
        if waiting and (cell < 0 or width + size > _COLUMNS):
            scores = np.empty((len(queries), width), dtype=np.float32)
            start = 0
            for one in waiting:
                stop = start + len(around[one])
                np.matmul(own, around[one].T, out=scores[:, start:stop])
                if around[one] is own:
                    np.fill_diagonal(scores[:, start:stop], -2)  # a row is no neighbour of itself
                start = stop
            best.add(scores, np.concatenate([_members(cells, one) for one in waiting]))
            waiting, width = [], 0
        waiting.append(cell)
        width += size
    return best.found


def _floor(question: Question) -> float:
    return question.floor if question.crowd is None else -1.0


def _crowd(found: Scored, queries: int, question: Question) -> Floats:
    """The similarity of each query's neighbour of the rank asked for."""
    crowd = np.full(queries, -1, dtype=np.float32)
    if question.crowd is not None:
        count = np.bincount(found.query, minlength=queries)
        enough = count >= question.crowd
        crowd[enough] = found.similarity[(np.cumsum(count) - count)[enough] + question.crowd - 1]
    return crowd


def _named(found: Scored, queries: Rows, question: Question) -> Scored:
    """What reaches the floor, by rows instead of numbers of queries."""
    close = found.similarity >= question.floor
    return Scored(queries[found.query[close]], found.row[close], found.similarity[close])


def _closeness(cells: Cells, asked: Rows, truth: Scored, config: SearchConfig) -> float:
    """How close centres must be for a cell to be looked at, so that the neighbours in ``truth`` are found."""
    cell_of = np.empty(int(cells.order.max()) + 1, dtype=np.int64)
    cell_of[cells.order] = np.repeat(np.arange(len(cells.centres)), np.diff(cells.starts))
    own, other = cell_of[asked[truth.query]], cell_of[truth.row]
    missed = []
    for home in np.unique(own):
        closeness = cells.centres @ cells.centres[home]
        wanted = other[own == home]
        near = np.isin(wanted, _around(closeness, home, config.probes, 2.0))
        missed.append(closeness[wanted[~near]])
    further = np.sort(np.concatenate([*missed, np.empty(0, np.float32)]))[::-1]
    needed = len(further) - int((1 - config.recall) * len(own))
    return float(np.floor(further[needed - 1] * 1e5) / 1e5) if needed > 0 else 2.0


def _tasks(
    cells: Cells, key: str, question: Question, config: SearchConfig, closeness: float, folder: Path
) -> list[JoinTask]:
    """Some cells each, about 16,384 rows."""
    tasks, first = [], 0
    while first < len(cells.centres):
        last = int(np.searchsorted(cells.starts, cells.starts[first] + _ROWS_PER_TASK, side="right")) - 1
        last = max(first + 1, last)
        tasks.append(
            JoinTask(
                units=int(cells.starts[last] - cells.starts[first]),
                cells=folder / "cells",
                key=key,
                first=first,
                last=last,
                question=question,
                probes=config.probes,
                closeness=closeness,
                folder=folder / "parts",
            )
        )
        first = last
    return tasks


def _collected(parts: list[JoinPart], cells: Cells, rows: Rows) -> tuple[Scored, Floats]:
    """All pairs, and each row's crowd in the order of ``rows``."""
    loaded = [np.load(part.outputs[0]) for part in parts]
    pairs = joined([Scored(one["query"], one["row"], one["similarity"]) for one in loaded])
    crowd = np.empty(len(rows), dtype=np.float32)
    crowd[np.searchsorted(rows, cells.order)] = np.concatenate([one["crowd"] for one in loaded])
    return pairs, crowd


def _recall(pairs: Scored, asked: Rows, truth: Scored, question: Question) -> tuple[float | None, int]:
    """The share of true neighbours among what was found, and their number; what rounding may decide is left out."""
    sure = truth.similarity >= question.floor + _ROUNDING
    query, row = asked[truth.query[sure]], truth.row[sure]
    if not len(query):
        return None, 0
    checked = np.isin(pairs.query, query)
    size = max(int(row.max()), int(pairs.row[checked].max(initial=0))) + 1
    hits = np.isin(query * size + row, pairs.query[checked] * size + pairs.row[checked])
    return float(hits.mean()), len(hits)
