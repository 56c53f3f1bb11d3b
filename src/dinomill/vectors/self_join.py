"""All rows against themselves: the neighbours of every row, by looking only where they can be.

<scratch>/<hash>/cells/     rows by cell (cells.py)
<scratch>/<hash>/visits/    which rows look at which cells (visits.py)
<scratch>/<hash>/floors/    for questions about the crowd: what each row need not look at
<scratch>/<hash>/parts/     pairs found in some cells; done markers beside them

An index answers one question after the other. Here all questions are known, so a cell is asked once by all rows that
look at it: one matrix product, what a processor does best. How far a row looks is set by a sample that is compared with
all rows; how much that finds is measured on another sample.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.arrays import Floats, Rows
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, run_tasks
from dinomill.storage.atomic import atomic_file
from dinomill.storage.hashing import hash_bytes, hash_json
from dinomill.vectors.cells import UNIT, Cells, near_cells, open_cells, write_cells
from dinomill.vectors.exact_join import Joined as Joined
from dinomill.vectors.exact_join import Question as Question
from dinomill.vectors.exact_join import crowd_of, exact_join, others
from dinomill.vectors.index import SearchConfig, SearchReport
from dinomill.vectors.products import Scored, Vectors, about_best, best, joined, one_thread
from dinomill.vectors.visits import cells_needed, write_visits

_ROWS_PER_TASK = 16_384
_ROWS_AT_ONCE = 8_192  # that a cell is compared with: 8 MB of similarities
_CELLS_OF_CROWD = 8
_ROUNDING = 5e-4  # what 16-bit rows may change a similarity by, amply


class Scratch(NamedTuple):
    """Where unfinished work lies, and who does it."""

    folder: Path
    key: str  # says what the vectors are: equal keys, equal vectors
    execution: ExecutionConfig
    past: Path | None = None  # where the neighbours of few rows are remembered from run to run


class JoinTask(Task):
    """Some cells, to be compared with the rows that look at them."""

    cells: Path
    visits: Path | None = Field(description="none: a task of `bound_crowd`, which looks at the nearest cells")
    floors: Path | None = Field(description="by place: similarity below which a row's neighbours are of no interest")
    key: str
    first: int
    last: int
    question: Question
    folder: Path


class JoinPart(TaskResult):
    """One file: ``.npz`` (query, row, similarity), or ``.npy`` (each row's floor)."""

    compared: int = Field(default=0, description="pairs of rows compared")


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
        return exact_join(vectors, rows, question, name, scratch and scratch.past)
    room: AbstractContextManager[str | Path] = tempfile.TemporaryDirectory() if scratch is None else nullcontext("")
    with room as temporary:
        place = scratch or Scratch(Path(temporary), "", ExecutionConfig())
        return _in_cells(vectors, rows, question, config, name, place)


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
    truth = others(vectors, asked, rows, question) if len(asked) else joined([])
    truth = truth.only(truth.similarity >= question.floor)
    setting = truth.query % 2 == 0  # one half sets how far to look, the other measures what that finds
    with one_thread():
        looked_at = cells_needed(cells, vectors.take(asked), asked, truth.only(setting), config.recall)
    visits = folder / "visits" / str(looked_at)
    if not visits.exists():
        write_visits(cells, looked_at, folder=visits)
    floors = _floors(cells, key, question, name, folder, scratch.execution) if question.crowd else None
    tasks = _tasks(cells, key, question, folder, visits, floors)
    parts = run_tasks(join_cells, tasks, JoinPart, done=folder / "done", config=scratch.execution, name=name)
    pairs, crowd = _collected(parts, rows, question)
    recall, checked = _recall(pairs, asked, truth.only(~setting), question)
    share = sum(part.compared for part in parts) / len(rows) ** 2
    kind = f"{len(cells.centres):,} cells, {looked_at} looked at; {share:.2%} of all pairs compared"
    return Joined(
        pairs, crowd, SearchReport(kind=kind, rows=len(rows), recall=recall, checked=checked, compared=len(rows))
    )


def join_cells(task: JoinTask) -> JoinPart:
    """Compare the rows of some cells with the rows that look at them."""
    assert task.visits is not None, "a task of bound_crowd"
    cells = open_cells(task.cells)
    queries, offsets = np.load(task.visits / "queries.npy", mmap_mode="r"), np.load(task.visits / "offsets.npy")
    floors = np.load(task.floors, mmap_mode="r") if task.floors else None
    found, compared = [], 0
    with one_thread():
        for cell in range(task.first, task.last):
            asking = queries[offsets[cell] : offsets[cell + 1]]
            compared += len(asking) * (cells.members(cell).stop - cells.members(cell).start)
            pieces = np.array_split(asking, -(-len(asking) // _ROWS_AT_ONCE))
            found += [_compare(cells, cell, some, floors, task.question) for some in pieces]
    pairs = joined(found)
    path = task.folder / f"{task.content_hash()[:16]}.npz"
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, query=cells.order[pairs.query], row=cells.order[pairs.row], similarity=pairs.similarity)
    return JoinPart(outputs=(path,), compared=compared)


def bound_crowd(task: JoinTask) -> JoinPart:
    """For each row of some cells a similarity that its crowd reaches: looked for in the few nearest cells."""
    cells = open_cells(task.cells)
    assert task.question.crowd is not None, "nothing was asked about the crowd"
    bounds = []
    with one_thread():
        near = near_cells(cells.centres, task.first, task.last, _CELLS_OF_CROWD)
        for cell in range(task.first, task.last):
            own = cells.rows[cells.members(cell)].astype(np.float32) / np.float32(UNIT**2)
            rows = np.concatenate([cells.rows[cells.members(one)] for one in near[cell - task.first]])
            scores = (own @ rows.astype(np.float32).T).astype(np.float32, copy=False)
            bounds.append(about_best(scores, task.question.crowd + 1))  # the row itself is among them: one more
    path = task.folder / f"{task.content_hash()[:16]}.npy"
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.minimum(np.concatenate(bounds), np.float32(task.question.floor)))
    return JoinPart(outputs=(path,))


def _compare(
    cells: Cells, cell: int, asking: Rows, floors: npt.NDArray[np.float32] | None, question: Question
) -> Scored:
    """The pairs of some rows and a cell's rows that are of interest, by their places."""
    here = cells.members(cell)
    rows = cells.rows[here].astype(np.float32) / np.float32(UNIT**2)
    scores = cells.rows[asking].astype(np.float32) @ rows.T
    limit = np.float32(question.floor) if floors is None else floors[asking][:, None]
    place = np.flatnonzero(scores >= limit)
    query, row = asking[place // len(rows)].astype(np.int64), here.start + place % len(rows)
    found = Scored(query, row, scores.ravel()[place]).only(query != row)
    if len(found.query) > question.neighbours:  # many copies of one picture: no more of them than are wanted
        return best(found, question.neighbours)
    return found


def _floors(cells: Cells, key: str, question: Question, name: str, folder: Path, execution: ExecutionConfig) -> Path:
    """The file of each row's floor, by place."""
    tasks = _tasks(cells, key, question, folder, None, None)
    parts = run_tasks(bound_crowd, tasks, JoinPart, done=folder / "done", config=execution, name=f"{name}, the crowd")
    path = folder / "floors" / f"{question.content_hash()[:16]}.npy"
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate([np.load(part.outputs[0]) for part in parts]))
    return path


def _tasks(
    cells: Cells, key: str, question: Question, folder: Path, visits: Path | None, floors: Path | None
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
                visits=visits,
                floors=floors,
                key=key,
                first=first,
                last=last,
                question=question,
                folder=folder / "parts",
            )
        )
        first = last
    return tasks


def _collected(parts: list[JoinPart], rows: Rows, question: Question) -> tuple[Scored, Floats]:
    """Each row's nearest, and its crowd in the order of ``rows``."""
    loaded = [np.load(part.outputs[0]) for part in parts]
    found = best(joined([Scored(one["query"], one["row"], one["similarity"]) for one in loaded]), question.neighbours)
    counted = Scored(np.searchsorted(rows, found.query), found.row, found.similarity)
    return found.only(found.similarity >= question.floor), crowd_of(counted, len(rows), question)


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
