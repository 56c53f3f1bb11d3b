"""How well a ranking puts right before wrong: average precision, recall, and precision over all pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dinomill.arrays import Figures, Floats, Mask, Rows

Average = Literal["steps", "trapezoids"]


def average_precisions(scores: Floats, right: Mask, junk: Mask, average: Average = "steps") -> Figures:
    """The average precision of every query, ``[Q]``; NaN where nothing is right.

    Args:
        scores: ``[Q, G]``, the higher the nearer.
        right: ``[Q, G]``: what should be found.
        junk: ``[Q, G]``: taken out of the ranking before it is looked at.
        average: ``steps``: precision at every right image (as scikit-learn's, which differs only in how it ranks equal
            scores); ``trapezoids``: the mean of the precision before and at it, as the revisited Oxford and Paris are
            scored (Radenović et al. 2018).
    """
    return np.array([_average_precision(*row, average) for row in zip(scores, right, junk, strict=True)])


def recalls(scores: Floats, right: Mask, junk: Mask, ks: Sequence[int]) -> dict[int, Figures]:
    """For each k whether one of the first k of every query is right, ``[Q]``; NaN where nothing is right."""
    found = {k: np.full(len(scores), np.nan) for k in ks}
    for row, (score, is_right, is_junk) in enumerate(zip(scores, right, junk, strict=True)):
        if (is_right & ~is_junk).any():
            first = int(_ranked(score, is_right, is_junk).argmax())
            for k in ks:
                found[k][row] = first < k
    return found


def precisions(scores: Floats, right: Mask, junk: Mask, k: int) -> Figures:
    """The share of right ones among the first k, ``[Q]``; NaN without any (mP@k of the revisited Oxford and Paris).

    Where the last right one comes before the k-th, only the ranks up to it are looked at.
    """
    found = np.full(len(scores), np.nan)
    for row, (score, is_right, is_junk) in enumerate(zip(scores, right, junk, strict=True)):
        if (is_right & ~is_junk).any():
            ranks = np.flatnonzero(_ranked(score, is_right, is_junk)) + 1
            depth = min(k, int(ranks[-1]))
            found[row] = (ranks <= depth).sum() / depth
    return found


def micro_average_precision(scores: Floats, right: Mask, wanted: Figures, weights: Figures | None = None) -> Figures:
    """The average precision of all pairs in one ranking, ``[R]`` (µAP, as DISC21 scores; Douze et al. 2021).

    Pairs of the same score come together: no threshold tells them apart.

    Args:
        scores: ``[Q, K]`` of the K candidates of every query.
        right: ``[Q, K]``.
        wanted: ``[Q]``: right pairs of each query, among the candidates or not.
        weights: ``[R, Q]``: how often each query counts; None: every one once.
    """
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")
    owners, hits = order // scores.shape[1], right.ravel()[order]
    ends = np.append(np.flatnonzero(np.diff(flat[order])), len(flat) - 1)
    weights = np.ones((1, len(scores))) if weights is None else weights
    return np.array([_by_steps(row[owners], hits, ends) / max(float(row @ wanted), 1e-12) for row in weights])


def _by_steps(weights: Figures, hits: Mask, ends: Rows) -> float:
    """The sum of precision times hits gained over the thresholds."""
    found, seen = np.cumsum(weights * hits)[ends], np.cumsum(weights)[ends]
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    return float((np.diff(found, prepend=0.0) * precision).sum())


def _average_precision(scores: Floats, right: Mask, junk: Mask, average: Average) -> float:
    if not (right & ~junk).any():
        return float("nan")
    places = np.flatnonzero(_ranked(scores, right, junk))  # from 0, junk taken out
    count = np.arange(len(places))
    after = (count + 1) / (places + 1)
    if average == "steps":
        return float(after.mean())
    before = np.where(places == 0, 1.0, count / np.maximum(places, 1))
    return float(((before + after) / 2).mean())


def _ranked(scores: Floats, right: Mask, junk: Mask) -> Mask:
    """Whether each of the ranking is right, the best first, without junk."""
    kept = ~junk
    order = np.argsort(-scores[kept], kind="stable")
    ranked: Mask = right[kept][order]
    return ranked
