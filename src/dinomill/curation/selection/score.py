"""How much an image is like the seeds: close to one of them, closer than it is to the crowd, and among others that are.

Similarity to the nearest seed alone measures, for the most part, how crowded a place is: flat drawings, or pictures on
white, are close to each other whatever they show. So two things are added. A share (``contrast``) of the mean
similarity to the ten nearest images of the pool is taken away: what has a thousand neighbours as close as its seed is
not asked for by that seed (cross-domain similarity local scaling: Conneau et al. 2018). And a share (``agreement``) of
the score is the mean score of the images around it, the nearer the more: of an image that looks like a seed by chance,
the neighbours do not. 4,096 evenly spaced images stand for the pool, so that the price grows as the pool and no faster.

A seed is scored as an image of the pool would be, without itself and its copies: neither its own nor its neighbours'
scores know it. So its score can be held against theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dinomill.arrays import Figures, Floats, Rows
from dinomill.vectors.index import Index, SearchConfig, SearchReport
from dinomill.vectors.products import Vectors, blocks, in_threads

_BACKGROUND = 4096  # images of the pool that stand for all of it
_CROWD = 10  # of them, the nearest: how crowded an image's place is
_AROUND = 60  # of them, the nearest: whose scores count
_COPY = 0.9999  # similarity from which on two images are one
_BLOCK = 512  # images at once: their similarities to the background fill 8 MB
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
    similarity: Figures  # [images, k]; -1 where there are fewer


class _Around(NamedTuple):
    """Where images have their place in the pool. Each figure moves by no more than the similarities do."""

    crowd: Figures  # [images]: mean similarity to the nearest of the background
    place: Rows  # [images, k]: the nearest of the background
    weight: Figures  # [images, k]: of each, of sum one; it falls to nothing where the next would begin


def score(
    vectors: Vectors, candidates: Rows, seeds: Rows, search: SearchConfig, *, contrast: float, agreement: float
) -> Scores:
    """Score the pool and the seeds.

    Args:
        vectors: Embeddings.
        candidates: Rows of the pool's images that are still in, in order.
        seeds: Rows of the seeds, in order.
        search: How neighbours are found among very many seeds.
        contrast: Share of the similarity to the pool that is taken away.
        agreement: Share of the score that is the mean of the scores around.
    """
    near, report = _nearest(vectors, candidates, seeds, 1, search)
    others, _ = _nearest(vectors, seeds, seeds, 1, search, itself=False)
    known = others.row[:, 0] >= 0
    found, own = near.similarity[:, 0], others.similarity[known, 0]
    if (contrast or agreement) and len(candidates) > 1:
        places = np.unique(np.linspace(0, len(candidates) - 1, min(_BACKGROUND, len(candidates))).astype(np.int64))
        background = candidates[places]
        two, _ = _nearest(vectors, background, seeds, 2, search)
        crowd = contrast * np.concatenate(_at_all(vectors, background, background, lambda _, here: here.crowd))

        def of_images(at: slice, here: _Around) -> Figures:
            around = two.similarity[:, 0] - crowd
            vote = (here.weight * around[here.place]).sum(axis=1)
            return np.asarray((1 - agreement) * (found[at] - contrast * here.crowd) + agreement * vote)

        def of_seeds(at: slice, here: _Around) -> Figures:
            itself = two.row[here.place, 0] == seeds[known][at][:, None]
            without = np.where(itself, two.similarity[here.place, 1], two.similarity[here.place, 0])
            vote = (here.weight * (without - crowd[here.place])).sum(axis=1)
            return np.asarray((1 - agreement) * (own[at] - contrast * here.crowd) + agreement * vote)

        found = np.concatenate(_at_all(vectors, candidates, background, of_images))
        own = np.concatenate([*_at_all(vectors, seeds[known], background, of_seeds), np.empty(0)])
    return Scores(np.round(found, 6), near.row[:, 0], near.similarity[:, 0], np.round(own, 6), report)


def _at_all(
    vectors: Vectors, rows: Rows, background: Rows, function: Callable[[slice, _Around], Figures]
) -> list[Figures]:
    """``function`` of pieces of the rows, and of where these have their place in the background."""
    those = vectors.take(background)
    crowd, around = (min(few, max(len(background) - 1, 1)) for few in (_CROWD, _AROUND))

    def of_some(at: slice) -> Figures:
        scores = vectors.take(rows[at]) @ those.T
        itself = np.searchsorted(background, rows[at])
        inside = np.flatnonzero(background[np.minimum(itself, len(background) - 1)] == rows[at])
        scores[inside, itself[inside]] = -1
        place = _best(scores, min(around + 1, len(background)))
        similarity = np.take_along_axis(scores, place, axis=1).astype(np.float64)
        order = np.argsort(-similarity, axis=1, kind="stable")
        place, similarity = np.take_along_axis(place, order, 1), np.take_along_axis(similarity, order, 1)
        weight = np.maximum(similarity[:, :around] - similarity[:, -1:], 0) + 1e-9
        weight /= weight.sum(axis=1, keepdims=True)
        return function(at, _Around(similarity[:, :crowd].mean(axis=1), place[:, :around], weight))

    return list(in_threads(of_some, _pieces(rows)))


def _nearest(
    vectors: Vectors, rows: Rows, among: Rows, k: int, search: SearchConfig, *, itself: bool = True
) -> tuple[_Near, SearchReport]:
    """The k nearest ``among`` some rows of each row, by similarities that are the same on every machine, best first.

    Without ``itself``, neither the row itself nor a copy of it is taken.
    """
    wide = min(k if itself else k + _SPARE, len(among))
    if len(among) > search.exact_up_to:
        index = Index(vectors, among, search)
        found = [index.search(vectors.take(block), wide).row for block in blocks(rows)]
        row, report = np.concatenate([*found, np.empty((0, wide), np.int64)]), index.report(wide)

        def of_some(at: slice) -> _Near:
            return _exact(vectors.take(rows[at]), rows[at], row[at], vectors.take, k, itself=itself)
    else:
        those, report = vectors.take(among), SearchReport(kind="exact", rows=len(among), recall=1.0)

        def of_some(at: slice) -> _Near:
            mine = vectors.take(rows[at])
            best = among[_best(mine @ those.T, wide)]
            return _exact(mine, rows[at], best, lambda row: those[np.searchsorted(among, row)], k, itself=itself)

    parts = list(in_threads(of_some, _pieces(rows)))
    row = np.concatenate([*(part.row for part in parts), np.empty((0, k), np.int64)])
    return _Near(row, np.concatenate([*(part.similarity for part in parts), np.empty((0, k))])), report


def _pieces(rows: Rows) -> list[slice]:
    return [slice(start, min(start + _BLOCK, len(rows))) for start in range(0, len(rows), _BLOCK)]


def _best(scores: Floats, k: int) -> Rows:
    """Columns of the k best of each row, in any order."""
    if scores.shape[1] <= k:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    if k == 1:
        return np.asarray(scores.argmax(axis=1)[:, None])
    return np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]


def _exact(mine: Floats, rows: Rows, found: Rows, take: Callable[[Rows], Floats], k: int, *, itself: bool) -> _Near:
    """The k best of what was found, by exact similarity; ``itself``: the row and its copies too."""
    theirs = take(np.maximum(found, 0).ravel()).reshape(*found.shape, -1).astype(np.float64)
    similarity = np.round(np.einsum("nd,nkd->nk", mine.astype(np.float64), theirs), 6)
    bad = found < 0
    if not itself:
        bad = bad | (found == rows[:, None]) | (similarity > _COPY)
    row, similarity = np.where(bad, -1, found), np.where(bad, -1.0, similarity)
    order = np.lexsort((row, -similarity), axis=1)[:, :k]
    row, similarity = np.take_along_axis(row, order, 1), np.take_along_axis(similarity, order, 1)
    lacking = ((0, 0), (0, k - row.shape[1]))
    return _Near(np.pad(row, lacking, constant_values=-1), np.pad(similarity, lacking, constant_values=-1.0))
