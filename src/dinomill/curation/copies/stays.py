"""Which image of a group of copies stays: the best; another leaves only if it itself agrees with one that stays.

Images are taken in the order of their rank. One that agrees with an image that stays leaves, all others stay. So what
agrees only with something that left stays too, and no chain of small differences ends at another picture (in
terms of graphs: a maximal independent set, the first in the order of rank).

Agreement is known for the pairs that a search among nearest neighbours found, and in a crowd of copies these are not
all pairs. Therefore what stands for two linked copies is compared as well, again and again until nothing new is
learnt: of a thousand copies one stays, though each was compared with its 32 nearest only. The work is in proportion to
the pairs found, not to the square of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dinomill.vectors.products import Rows

Figures = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ROUNDS = 24  # halve the copies left in a crowd each; a long chain may want more, and then keeps an image too many


class Verdict(NamedTuple):
    """What is to be said about pairs of images."""

    copies: Mask  # the same picture
    colour: Mask  # the same picture but for its colours
    distance: Figures  # of the signatures
    by_look: Mask  # copies because their signatures say so


class Pairs(NamedTuple):
    """Pairs of rows, smaller row first, each once."""

    left: Rows
    right: Rows
    distance: Figures

    def only(self, chosen: Mask) -> Pairs:
        """Some of them."""
        return Pairs(self.left[chosen], self.right[chosen], self.distance[chosen])

    def and_these(self, more: Pairs) -> Pairs:
        """Two lists, one after the other."""
        return Pairs(*(np.concatenate([mine, theirs]) for mine, theirs in zip(self, more, strict=True)))


class Settled(NamedTuple):
    """Who stays."""

    stays: Rows  # [rows]: the row that stays in place of each; a row that stays has itself
    edges: Pairs  # pairs that are known to agree
    apart: Pairs  # compared because a copy links them, and found to be different
    by_colour: Mask  # which of those only for their colours


def settle(edges: Pairs, precedence: Rows, fixed: Mask, judge: Callable[[Rows, Rows], Verdict]) -> Settled:
    """Decide who stays.

    Args:
        edges: Pairs that agree.
        precedence: Of every row, [rows]: the lowest stays; ``fixed`` rows come before all others.
        fixed: Rows that stay whatever they agree with, [rows]: labelled images.
        judge: Says of pairs of rows whether they agree.
    """
    rows = len(precedence)
    known = np.unique(edges.left * rows + edges.right)
    apart, by_colour = edges.only(np.zeros(len(edges.left), dtype=np.bool_)), np.zeros(0, dtype=np.bool_)
    stays = _walk(edges, precedence, fixed)
    for _ in range(_ROUNDS):
        key = np.setdiff1d(_linked(edges, stays, fixed), known, assume_unique=True)
        if not len(key):
            break
        found = judge(key // rows, key % rows)
        pairs = Pairs(key // rows, key % rows, found.distance)
        known = np.union1d(known, key)
        apart, by_colour = apart.and_these(pairs.only(~found.copies)), np.append(by_colour, found.colour[~found.copies])
        if not found.copies.any():
            break
        edges = edges.and_these(pairs.only(found.copies))
        stays = _walk(edges, precedence, fixed)
    return Settled(stays, edges, apart, by_colour)


def _linked(edges: Pairs, stays: Rows, fixed: Mask) -> Rows:
    """Keys of the pairs of rows that stand for the two ends of some edge, each once."""
    one, other = stays[edges.left], stays[edges.right]
    open_ = (one != other) & ~(fixed[one] & fixed[other])
    one, other = one[open_], other[open_]
    return np.unique(np.minimum(one, other) * len(stays) + np.maximum(one, other))


def _walk(edges: Pairs, precedence: Rows, fixed: Mask) -> Rows:
    """The row that stays in place of each, by the edges alone."""
    first = precedence[edges.left] < precedence[edges.right]
    better, worse = np.where(first, edges.left, edges.right), np.where(first, edges.right, edges.left)
    order = np.argsort(precedence[worse], kind="stable")
    better, worse, distance = better[order], worse[order], edges.distance[order]
    starts = np.flatnonzero(np.diff(worse, prepend=-1))
    ends = np.append(starts, len(worse))[1:]
    left = np.zeros(len(precedence), dtype=np.bool_)
    for row, start, end in zip(worse[starts].tolist(), starts.tolist(), ends.tolist(), strict=True):
        left[row] = not fixed[row] and not left[better[start:end]].all()
    open_ = left[worse] & ~left[better]  # what each leaver agrees with and stays
    better, worse, distance = better[open_], worse[open_], distance[open_]
    last = np.lexsort((-precedence[better], -distance, fixed[better], worse))  # the nearest last; labelled after all
    stays = np.arange(len(precedence), dtype=np.int64)
    stays[worse[last]] = better[last]  # of repeated places the last assignment stays
    return stays
