"""Copies of copies: connected components of a graph of pairs, and the best of each."""

from __future__ import annotations

import numpy as np

from dinomill.arrays import Rows


def connected_components(count: int, left: Rows, right: Rows) -> Rows:
    """The number of the component of each of ``count`` nodes, with edges from ``left`` to ``right``; int64 [count]."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components as components

    graph = coo_matrix((np.ones(len(left), dtype=np.bool_), (left, right)), shape=(count, count))
    return np.asarray(components(graph, directed=False)[1], dtype=np.int64)


def best_of_each(component: Rows, rows: Rows, rank: Rows) -> Rows:
    """The best-ranked of ``rows`` in each component; -1 where there is none.

    Args:
        component: Of every node, [nodes].
        rows: The nodes that may be chosen.
        rank: Of every node, [nodes]; the lowest is the best.
    """
    best = np.full(int(component.max(initial=-1)) + 1, -1, dtype=np.int64)
    worst_first = rows[np.argsort(-rank[rows])]
    best[component[worst_first]] = worst_first  # of repeated places the last assignment stays: the best
    return best
