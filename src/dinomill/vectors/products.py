"""Similarities of many rows with many others: products of one block at a time, the same for any number of threads.

A BLAS may add in another order when it has more threads, and a tie in the last digit then falls the other way. Here
every block is one product by one thread; several are worked on at once, and which thread takes which changes nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Floats as Floats
from dinomill.arrays import Rows as Rows

_SCORES = 2_000_000  # similarities held at once by one thread: 8 MB, less than its share of the cache
_GROUPS = 16
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Vectors(Protocol):
    """Rows of length one, read in blocks; never all in memory unless they are few."""

    def __len__(self) -> int: ...

    @property
    def dimension(self) -> int:
        """Numbers a row."""

    def take(self, rows: Rows) -> Floats:
        """The rows asked for, float32 [n, D]."""


class Scored(NamedTuple):
    """Some similarities of queries and rows; each pair once."""

    query: Rows  # [n]
    row: Rows  # [n]
    similarity: Floats  # [n]

    def only(self, chosen: npt.NDArray[np.bool_]) -> Scored:
        """Some of them."""
        return Scored(self.query[chosen], self.row[chosen], self.similarity[chosen])


def blocks(rows: Rows, size: int = 16_384) -> Iterator[Rows]:
    """Rows in pieces that fit in memory."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def one_thread() -> AbstractContextManager[Any]:
    """Within it, a product is computed by the thread that asks for it."""
    limits: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limits


def in_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """``function`` of each item, in the items' order; as many at once as ``OMP_NUM_THREADS`` or the CPUs allow."""
    count = _threads()
    waiting: deque[Future[_Result]] = deque()
    with one_thread(), ThreadPoolExecutor(count) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def nearest(rows: Floats, centres: Floats) -> tuple[Rows, Floats]:
    """The most similar centre of each row, and how similar it is: int64 and float32 [rows]."""
    place, similarity = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.float32)
    size = max(64, min(1024, _SCORES // max(1, len(centres))))
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        scores = rows[here] @ centres.T
        place[here] = scores.argmax(axis=1)
        similarity[here] = scores[np.arange(len(scores)), place[here]]
    return place, similarity


def nearest_of_all(vectors: Vectors, rows: Rows, centres: Floats) -> tuple[Rows, Floats]:
    """``nearest`` of many rows, block by block."""
    found = list(in_threads(lambda block: nearest(vectors.take(block), centres), blocks(rows)))
    place = np.concatenate([*(one[0] for one in found), np.empty(0, np.int64)])
    return place, np.concatenate([*(one[1] for one in found), np.empty(0, np.float32)])


def may_be_best(scores: Floats, k: int, floor: npt.NDArray[Any] | float) -> tuple[Rows, Rows]:
    """Where scores [n, m] reach the floor (of each row) and may be among the k best of their row: at most some more.

    The maxima of groups of columns bound the k-th best from below, at a fraction of the price of sorting.
    """
    limit = np.maximum(np.asarray(floor, dtype=np.float32), about_best(scores, k))
    place = np.flatnonzero(scores >= limit[:, None])  # ten times as fast as np.nonzero
    return place // scores.shape[1], place % scores.shape[1]


def about_best(scores: Floats, k: int) -> Floats:
    """No more than the k-th best of each row of scores [n, m], and hardly less when there are many; float32 [n]."""
    width = scores.shape[1] // _GROUPS
    if width < k:
        return np.full(len(scores), -2, dtype=np.float32)
    peaks = scores[:, :width].copy()
    for group in range(1, _GROUPS):
        np.maximum(peaks, scores[:, group * width : (group + 1) * width], out=peaks)
    bound: Floats = np.partition(peaks, width - k, axis=1)[:, width - k]
    return bound


class Best:
    """The k most similar rows of each query, of all that it was shown so far.

    Args:
        queries: How many there are.
        k: Rows a query.
        floor: Similarity below which a row is of no interest.
    """

    def __init__(self, queries: int, k: int, floor: float) -> None:
        self.k = k
        self.found = joined([])
        self._limit = np.full(queries, floor, dtype=np.float32)

    def add(self, scores: Floats, rows: Rows) -> None:
        """Take in the similarities [queries, m] of ``rows`` [m]."""
        query, column = may_be_best(scores, self.k, self._limit)
        scored = Scored(query, rows[column], scores[query, column])
        self.found = best(joined([self.found, scored]) if len(self.found.query) else scored, self.k)
        count = np.bincount(self.found.query, minlength=len(self._limit))
        full = count >= self.k
        self._limit[full] = np.maximum(self._limit[full], self.found.similarity[np.cumsum(count)[full] - 1])


def brute_force(queries: Floats, vectors: Vectors, rows: Rows, k: int, floor: float = -2.0) -> Scored:
    """The k most similar ``rows`` of every query [n, D] that reach the floor, by comparing all with all."""
    parts = in_threads(lambda some: _brute_force(some, vectors, rows, k, floor), _pieces(queries))
    found = [Scored(part.query + start, part.row, part.similarity) for start, part in parts]
    return joined(found)


def joined(parts: list[Scored]) -> Scored:
    """All of several."""
    empty = Scored(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Scored(*(np.concatenate(column) for column in zip(empty, *parts, strict=True)))


def best(scored: Scored, k: int) -> Scored:
    """The k most similar rows of each query, best first; of equals, the first rows."""
    order = np.lexsort((scored.row, -scored.similarity, scored.query))
    query = scored.query[order]
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    rank = np.arange(len(query)) - np.repeat(starts, np.diff(starts, append=len(query)))
    kept = order[rank < k]
    return Scored(scored.query[kept], scored.row[kept], scored.similarity[kept])


def _pieces(queries: Floats, size: int = 1024) -> Iterator[tuple[int, Floats]]:
    for start in range(0, len(queries), size):
        yield start, queries[start : start + size]


def _brute_force(some: tuple[int, Floats], vectors: Vectors, rows: Rows, k: int, floor: float) -> tuple[int, Scored]:
    start, queries = some
    nearest = Best(len(queries), k, floor)
    for block in blocks(rows, 8_192):
        nearest.add(queries @ vectors.take(block).T, block)
    return start, nearest.found


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()
