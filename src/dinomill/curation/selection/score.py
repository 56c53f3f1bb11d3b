"""How much an image is like the seeds: close to some of them, and closer than the pool is close to it.

The score of an image is the mean of its similarities to its nearest seeds, less a share (``contrast``) of the mean of
its similarities to its nearest images of the pool. Similarity alone measures, for the most part, how crowded the place
is: flat drawings, or pictures on white, are close to each other whatever they show, and one whose thousand neighbours
are as close as the seeds is not asked for by them. The second term takes that away (cross-domain similarity local
scaling: Conneau et al. 2018). A seed is scored as an image of the pool would be, without itself and its copies, so that
its score can be held against theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dinomill.vectors.index import Index, SearchConfig, SearchReport
from dinomill.vectors.products import Floats, Rows, Vectors, blocks, in_threads

Figures = npt.NDArray[np.float64]

_BACKGROUND = 4096  # images of the pool that stand for all of it
_CROWD = 10  # of them, the nearest: where an image has its place
_COPY = 0.9999  # similarity from which on two images are one
_BLOCK = 512  # images at once: their neighbours' features fill 30 MB
_SPARE = 8  # more seeds are looked at where copies do not count


class Scores(NamedTuple):
    """How like the seeds images are, and the seeds themselves."""

    score: Figures  # [images]
    nearest: Rows  # [images]: the closest seed, a row of the embeddings
    similarity: Figures  # [images]: to it
    own: Figures  # [seeds that are no copies]: the seeds, each scored without itself
    search: SearchReport  # how the nearest seeds were found


class _Near(NamedTuple):
    row: Rows  # [images, k], best first; -1 where there are fewer
    similarity: Figures  # [images, k]; NaN where there are fewer


def score(
    vectors: Vectors, candidates: Rows, seeds: Rows, search: SearchConfig, *, few: int, contrast: float
) -> Scores:
    """Score the pool and the seeds.

    Args:
        vectors: Embeddings.
        candidates: Rows of the pool's images that are still in.
        seeds: Rows of the seeds.
        search: How neighbours are found among very many seeds.
        few: Seeds that an image is held against: its nearest.
        contrast: Share of the similarity to the pool that is taken away.
    """
    background = candidates[np.unique(np.linspace(0, len(candidates) - 1, _BACKGROUND).astype(np.int64))]
    near, report = _nearest(vectors, candidates, seeds, few, search)
    others, _ = _nearest(vectors, seeds, seeds, few, search, spare=_SPARE)
    known = ~np.isnan(others.similarity[:, 0])
    found, own = _mean(near.similarity), _mean(others.similarity[known])
    if contrast:
        found = found - contrast * _crowd(vectors, candidates, background, search)
        own = own - contrast * _crowd(vectors, seeds[known], background, search)
    return Scores(np.round(found, 6), near.row[:, 0], near.similarity[:, 0], np.round(own, 6), report)


def _crowd(vectors: Vectors, rows: Rows, background: Rows, search: SearchConfig) -> Figures:
    """The mean similarity to the nearest images of the pool."""
    return _mean(_nearest(vectors, rows, background, _CROWD, search, spare=1)[0].similarity)


def _mean(similarity: Figures) -> Figures:
    """Of each row's neighbours, as many as there are; 0 for none."""
    known = ~np.isnan(similarity)
    total = np.where(known, similarity, 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(known.sum(axis=1), 1))


def _nearest(
    vectors: Vectors, rows: Rows, among: Rows, k: int, search: SearchConfig, *, spare: int = 0
) -> tuple[_Near, SearchReport]:
    """The k nearest ``among`` some rows of each row, by similarities that are the same on every machine, best first.

    With ``spare`` so many more are looked at, and neither the row itself nor a copy of it is taken.
    """
    wide = min(k + spare, len(among))
    if len(among) > search.exact_up_to:
        index = Index(vectors, among, search)
        found = [index.search(vectors.take(block), wide).row for block in blocks(rows)]
        row, report = np.concatenate([*found, np.empty((0, wide), np.int64)]), index.report(wide)
        parts = list(
            in_threads(
                lambda at: _exact(vectors.take(rows[at]), rows[at], row[at], vectors.take, k, copies=not spare),
                _pieces(rows),
            )
        )
    else:
        those, report = vectors.take(among), SearchReport(kind="exact", rows=len(among), recall=1.0)

        def of_some(at: slice) -> _Near:
            mine = vectors.take(rows[at])
            best = among[_best(mine @ those.T, wide)]
            return _exact(mine, rows[at], best, lambda row: those[np.searchsorted(among, row)], k, copies=not spare)

        parts = list(in_threads(of_some, _pieces(rows)))
    near = [np.concatenate([*column]) for column in zip(*parts, strict=True)]
    return _Near(near[0], near[1]), report


def _pieces(rows: Rows) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, len(rows), _BLOCK)]


def _best(scores: Floats, k: int) -> Rows:
    """Columns of the k best of each row, in any order."""
    if scores.shape[1] <= k:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]


def _exact(mine: Floats, rows: Rows, found: Rows, take: Callable[[Rows], Floats], k: int, *, copies: bool) -> _Near:
    """The k best of what was found, by exact similarity; ``copies``: its copies too, and itself."""
    theirs = take(np.maximum(found, 0).ravel()).reshape(*found.shape, -1).astype(np.float64)
    similarity = np.round(np.einsum("nd,nkd->nk", mine.astype(np.float64), theirs), 6)
    bad = found < 0
    if not copies:
        bad = bad | (found == rows[:, None]) | (similarity > _COPY)
    similarity = np.where(bad, -np.inf, similarity)
    order = np.lexsort((found, -similarity), axis=1)[:, :k]
    row, similarity = np.take_along_axis(found, order, 1), np.take_along_axis(similarity, order, 1)
    lacking = ((0, 0), (0, k - row.shape[1]))
    row, similarity = np.pad(row, lacking, constant_values=-1), np.pad(similarity, lacking, constant_values=-np.inf)
    return _Near(np.where(np.isinf(similarity), -1, row), np.where(np.isinf(similarity), np.nan, similarity))
