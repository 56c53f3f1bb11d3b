"""All of few rows against all of them by brute force; what was compared before is not compared again.

<past>/<dimension>-<question>.npz      each row's nearest rows of the last time, by what the rows are

A new row is compared with all. A row that was there before keeps its neighbours of before, without those that are gone
and with the new ones that come closer. It is compared with all again when too few of those that it had are left to be
sure of the nearest: a list is a little longer than what is asked for, and knows its horizon, the similarity above which
it holds everything. So the answer is the same as without a past.

A matrix product may round otherwise when its blocks are others. It only proposes; the similarities that count are
computed pair by pair and rounded to six digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.arrays import Floats, Rows
from dinomill.config import Config
from dinomill.execution.progress import Progress, progress
from dinomill.storage.atomic import atomic_file
from dinomill.storage.kept import KEY, KeyIndex, Keys
from dinomill.vectors.index import SearchReport, exact_similarity
from dinomill.vectors.products import Scored, Vectors, blocks, brute_force, in_threads, joined

_SURE = np.float32(5e-6)  # more than a product of float32 rows of length one may be wrong by
_EVERYTHING = np.float32(-3)  # the horizon of a list that holds all that is of interest


class Question(Config):
    """What is asked about every row."""

    neighbours: int = Field(ge=1, description="nearest rows wanted, without the row itself")
    floor: float = Field(default=-1.0, description="similarity below which a neighbour is of no interest")
    crowd: int | None = Field(default=None, ge=1, description="also say how similar this neighbour is (1: the nearest)")

    @property
    def lowest(self) -> float:
        """Similarity of rows that are of any interest: the crowd may be far away."""
        return self.floor if self.crowd is None else -2.0

    @property
    def listed(self) -> int:
        """Rows in a list: some more than are wanted, so that a few may go."""
        return self.neighbours + self.neighbours // 4 + 4


class Joined(NamedTuple):
    """The answer."""

    pairs: Scored  # each row's nearest rows that reach the floor
    crowd: Floats  # [rows]: similarity of the neighbour asked for; -1 where there are fewer
    report: SearchReport


class _Lists(NamedTuple):
    """The nearest of each row, best first; rows are counted from 0."""

    scored: Scored
    horizon: Floats  # [rows]: everything above it is in the list

    def without(self, rows: npt.NDArray[np.bool_]) -> Scored:
        """The lists of the other rows."""
        return self.scored.only(~rows[self.scored.query])


def exact_join(vectors: Vectors, rows: Rows, question: Question, name: str, past: Path | None = None) -> Joined:
    """The nearest ``rows`` of each of ``rows``.

    Args:
        vectors: All rows.
        rows: The rows to compare, in order.
        question: What is asked.
        name: For the progress bar.
        past: The folder in which neighbours are remembered; None: they are not.
    """
    file = past and past / f"{vectors.dimension}-{question.content_hash()[:16]}.npz"
    names = _names(vectors, rows) if file else None
    with progress(name, len(rows)) as bar:
        lists, compared = _lists(vectors, rows, question, _recalled(file, names), bar)
    if file is not None and names is not None and compared:
        _remember(file, names, lists)
    scored = lists.scored
    crowd = crowd_of(scored, len(rows), question)
    scored = scored.only(_rank(scored.query) < question.neighbours)
    scored = scored.only(scored.similarity >= question.floor)
    report = SearchReport(kind="exact", rows=len(rows), recall=1.0, compared=compared)
    return Joined(Scored(rows[scored.query], rows[scored.row], scored.similarity), crowd, report)


def others(vectors: Vectors, queries: Rows, rows: Rows, question: Question) -> Scored:
    """The neighbours of some of the rows by brute force, the row itself left out; ``query`` counts the queries."""
    found = brute_force(vectors.take(queries), vectors, rows, question.neighbours + 1, question.lowest)
    found = found.only(found.row != queries[found.query])
    return found.only(_rank(found.query) < question.neighbours)  # one of many equal rows may not have found itself


def crowd_of(found: Scored, queries: int, question: Question) -> Floats:
    """The similarity of each query's neighbour of the rank asked for, of lists in order."""
    crowd = np.full(queries, -1, dtype=np.float32)
    if question.crowd is not None:
        count = np.bincount(found.query, minlength=queries)
        enough = count >= question.crowd
        crowd[enough] = found.similarity[(np.cumsum(count) - count)[enough] + question.crowd - 1]
    return crowd


def _lists(
    vectors: Vectors, rows: Rows, question: Question, old: tuple[_Lists, npt.NDArray[np.bool_]] | None, bar: Progress
) -> tuple[_Lists, int]:
    """The lists of all rows, and how many rows were compared with all."""
    new = np.ones(len(rows), dtype=np.bool_) if old is None else ~old[1]
    if old is None or new.mean() > 0.5:
        return _searched(vectors, rows, np.arange(len(rows)), question, bar), len(rows)
    lists = _with_new(vectors, rows, old[0], new, question)
    again = new | ~_sufficient(lists, question)
    fresh = _searched(vectors, rows, np.flatnonzero(again), question, bar)
    bar.advance(len(rows) - int(again.sum()))
    merged = _ordered(joined([lists.without(again), fresh.scored]))
    return _Lists(merged, np.where(again, fresh.horizon, lists.horizon)), int(again.sum())


def _searched(vectors: Vectors, rows: Rows, asked: Rows, question: Question, bar: Progress) -> _Lists:
    """The lists of some rows, by comparing them with all."""
    horizon = np.full(len(rows), _EVERYTHING, dtype=np.float32)
    parts = []
    limit = question.listed + 1  # the row itself is among them
    for block in blocks(asked):
        found = brute_force(vectors.take(rows[block]), vectors, rows, limit, question.lowest - float(_SURE))
        count = np.bincount(found.query, minlength=len(block))
        last = found.similarity[np.maximum(np.cumsum(count) - 1, 0)] if len(found.query) else np.zeros(len(block))
        horizon[block] = np.where(count == limit, last + _SURE, _EVERYTHING)
        query, row = block[found.query], np.searchsorted(rows, found.row)
        parts.append(_exactly(vectors, rows, query[query != row], row[query != row]))
        bar.advance(len(block))
    return _Lists(_ordered(joined(parts)), horizon)


def _with_new(vectors: Vectors, rows: Rows, lists: _Lists, new: npt.NDArray[np.bool_], question: Question) -> _Lists:
    """The lists of rows that were there before, with the new rows that belong to them."""
    known = np.flatnonzero(~new)
    count = np.bincount(lists.scored.query, minlength=len(rows))
    limit = np.maximum(lists.horizon, np.float32(question.lowest))
    full = count >= question.listed
    last = lists.scored.similarity[np.maximum(np.cumsum(count) - 1, 0)] if len(lists.scored.query) else limit
    limit[full] = np.maximum(limit, last)[full]
    closer = [
        _exactly(vectors, rows, *pair) for pair in _close(vectors, rows, known, np.flatnonzero(new), limit - _SURE)
    ]
    scored = _ordered(joined([lists.scored, *closer]))
    rank = _rank(scored.query)
    horizon = lists.horizon.copy()
    dropped = scored.only(rank == question.listed)
    horizon[dropped.query] = np.maximum(horizon[dropped.query], dropped.similarity)
    return _Lists(scored.only(rank < question.listed), horizon)


def _close(vectors: Vectors, rows: Rows, known: Rows, new: Rows, limit: Floats) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of known and new rows whose similarity reaches the known one's limit."""
    for some in blocks(new, 1_024):
        queries = vectors.take(rows[some])

        def of_block(block: Rows, some: Rows = some, queries: Floats = queries) -> tuple[Rows, Rows]:
            scores = vectors.take(rows[block]) @ queries.T
            place = np.flatnonzero(scores >= limit[block][:, None])
            return block[place // len(some)], some[place % len(some)]

        yield from in_threads(of_block, blocks(known, 8_192))


def _sufficient(lists: _Lists, question: Question) -> npt.NDArray[np.bool_]:
    """Which lists are sure to hold the nearest, bool [rows]."""
    seen = lists.scored.query[lists.scored.similarity > lists.horizon[lists.scored.query]]
    count = np.bincount(seen, minlength=len(lists.horizon))
    close_ones = (lists.horizon < question.floor) & (count >= (question.crowd or 0))
    return np.asarray((lists.horizon == _EVERYTHING) | close_ones | (count >= question.neighbours))


def _exactly(vectors: Vectors, rows: Rows, query: Rows, row: Rows) -> Scored:
    """Pairs with the similarity that counts."""
    return Scored(query, row, exact_similarity(vectors, rows[query], rows[row]).astype(np.float32))


def _ordered(scored: Scored) -> Scored:
    order = np.lexsort((scored.row, -scored.similarity, scored.query))
    return Scored(scored.query[order], scored.row[order], scored.similarity[order])


def _rank(query: Rows) -> Rows:
    """The place of each entry in its list, of lists one after the other."""
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    return np.arange(len(query)) - np.repeat(starts, np.diff(starts, append=len(query)))


def _names(vectors: Vectors, rows: Rows) -> Keys:
    """What each row is: a hash of its numbers; of equal rows the second has another name than the first."""
    found: list[bytes] = []
    times: dict[bytes, int] = {}
    for block in blocks(rows):
        for row in vectors.take(block):
            name = hashlib.blake2b(row.tobytes(), digest_size=KEY).digest()
            before = times.get(name, 0)
            times[name] = before + 1
            found.append(hashlib.blake2b(name + str(before).encode(), digest_size=KEY).digest() if before else name)
    return np.frombuffer(b"".join(found), dtype=f"S{KEY}")


def _remember(file: Path, names: Keys, lists: _Lists) -> None:
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            names=names,
            horizon=lists.horizon,
            query=lists.scored.query.astype(np.int32),
            row=lists.scored.row.astype(np.int32),
            similarity=lists.scored.similarity,
        )


def _recalled(file: Path | None, names: Keys | None) -> tuple[_Lists, npt.NDArray[np.bool_]] | None:
    """The lists of last time, of rows that are still there, and which those are; None: nothing is known."""
    if file is None or names is None:
        return None
    with suppress(Exception):  # none yet, or damaged (its parts carry checksums): everything is compared
        with np.load(file) as last:
            there = KeyIndex(names).find(last["names"])
            query, row = there[last["query"]], there[last["row"]]
            stays = (query >= 0) & (row >= 0)
            horizon = np.full(len(names), _EVERYTHING, dtype=np.float32)
            horizon[there[there >= 0]] = last["horizon"][there >= 0]
            scored = _ordered(Scored(query[stays], row[stays], last["similarity"][stays]))
        known = np.zeros(len(names), dtype=np.bool_)
        known[there[there >= 0]] = True
        return _Lists(scored, horizon), known
    return None
