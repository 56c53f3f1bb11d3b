"""Which pairs of images show the same picture.

A pair is an edge when one is among the other's nearest signatures or embeddings, **and** their signatures agree:
their distance (1 − correlation) is at most ``certain``; or at most ``max_distance`` and at most ``ratio`` times the
distance to the ``crowd``-th nearest neighbour of either. The second half keeps apart what is merely alike: in a
pool of nothing but trousers every pair is close, but a copy is much closer than the crowd.

With ``trust_embedding``, a cosine above ``cosine`` is enough, as in the paper (k = 64, 0.6 within the pool, 0.45
against labelled images): right for a network made for copy detection, wrong for one made to find two shirts alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.neighbours import Index, Rows, SearchConfig, Vectors, blocks, exact_similarity

Figures = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_SLACK = 1e-3  # the index works in float32 or float16; the decision is made on exact figures


class DeduplicationConfig(Config):
    """When two files count as the same picture."""

    signature_neighbours: int = Field(default=32, ge=1, description="nearest signatures looked at for each image")
    certain: float = Field(
        default=0.003, ge=0, le=2, description="signature distance that is a copy wherever it occurs"
    )
    max_distance: float = Field(
        default=0.06, ge=0, le=2, description="signature distance beyond which nothing is a copy"
    )
    ratio: float = Field(default=0.12, ge=0, le=1, description="a copy's distance is at most this share of the crowd's")
    crowd: int = Field(default=16, ge=1, description="the neighbour whose distance says how crowded the place is")
    embedding_neighbours: int = Field(default=64, ge=0, description="nearest embeddings looked at; 0: none (paper: 64)")
    cosine: float = Field(
        default=0.9, ge=-1, le=1, description="embeddings closer than this are candidates (paper: 0.6)"
    )
    trust_embedding: bool = Field(
        default=False, description="a cosine above the threshold suffices, without signatures"
    )
    labelled_cosine: float = Field(
        default=0.9, ge=-1, le=1, description="the threshold against labelled images (paper: 0.45)"
    )
    search: SearchConfig = SearchConfig()


class Edges(NamedTuple):
    """Pairs of scan rows that show the same picture."""

    left: Rows
    right: Rows
    by_embedding: Mask  # found by the embedding alone


def find_edges(
    looks: Vectors,
    features: Vectors,
    feature_row: Rows,
    rows: Rows,
    labelled: Mask,
    config: DeduplicationConfig,
    advance: Callable[[int], None],
) -> Edges:
    """All edges among ``rows``.

    Args:
        looks: Signatures by scan row.
        features: Embeddings by embedding row.
        feature_row: The embedding row of each scan row.
        rows: The scan rows to compare: one of each group of equal pixels.
        labelled: Which scan rows are labelled, bool.
        config: When a pair is an edge.
        advance: Told how many rows are done; twice the number of rows in all.
    """
    crowd = np.full(len(labelled), np.inf)
    left, right = _signature_candidates(looks, rows, crowd, config, advance)
    alike = _same_look(looks, left, right, crowd, config)
    found = [(left[alike], right[alike])]
    left, right, cosine = _embedding_candidates(features, feature_row, rows, labelled, config, advance)
    if config.trust_embedding:
        limit = np.where(labelled[left] | labelled[right], config.labelled_cosine, config.cosine)
        agreed = cosine >= limit
    else:
        agreed = _same_look(looks, left, right, crowd, config)
    found.append((left[agreed], right[agreed]))
    return _without_repeats(found, len(labelled))


def _signature_candidates(
    looks: Vectors, rows: Rows, crowd: Figures, config: DeduplicationConfig, advance: Callable[[int], None]
) -> tuple[Rows, Rows]:
    """Pairs of close signatures; fills in how far the crowd is from each row."""
    index = Index(looks, rows, config.search)
    lefts, rights = [], []
    for block in blocks(rows, 16_384):
        found = index.search(looks.take(block), max(config.signature_neighbours, config.crowd) + 1)
        if found.row.shape[1] > config.crowd:
            crowd[block] = np.round(1 - found.similarity[:, config.crowd].astype(np.float64), 4)
        left, right, _ = _pairs(block, found.row, found.similarity, 1 - config.max_distance - _SLACK)
        lefts.append(left)
        rights.append(right)
        advance(len(block))
    return np.concatenate(lefts), np.concatenate(rights)


def _embedding_candidates(
    features: Vectors,
    feature_row: Rows,
    rows: Rows,
    labelled: Mask,
    config: DeduplicationConfig,
    advance: Callable[[int], None],
) -> tuple[Rows, Rows, Figures]:
    """Pairs of close embeddings, and their exact cosine."""
    if not config.embedding_neighbours:
        advance(len(rows))
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    here = feature_row[rows]
    back = np.full(len(features), -1, dtype=np.int64)
    back[here] = rows
    index = Index(features, here, config.search)
    lowest = min(config.cosine, config.labelled_cosine) if labelled.any() else config.cosine
    lefts, rights = [], []
    for block in blocks(here, 16_384):
        found = index.search(features.take(block), config.embedding_neighbours + 1)
        left, right, _ = _pairs(block, found.row, found.similarity, lowest - _SLACK)
        lefts.append(left)
        rights.append(right)
        advance(len(block))
    left, right = np.concatenate(lefts), np.concatenate(rights)
    return back[left], back[right], exact_similarity(features, left, right)


def _pairs(block: Rows, neighbour: Rows, similarity: npt.NDArray[np.float32], limit: float) -> tuple[Rows, Rows, Mask]:
    """Each pair once, smaller row first, whose similarity reaches the limit."""
    own = np.broadcast_to(block[:, None], neighbour.shape)
    close = (similarity >= limit) & (neighbour >= 0) & (neighbour != own)
    left, right = np.minimum(own[close], neighbour[close]), np.maximum(own[close], neighbour[close])
    return left, right, close


def _same_look(looks: Vectors, left: Rows, right: Rows, crowd: Figures, config: DeduplicationConfig) -> Mask:
    """Whether the signatures of each pair agree."""
    distance = 1 - exact_similarity(looks, left, right)
    close = distance <= np.minimum(config.max_distance, config.ratio * np.minimum(crowd[left], crowd[right]))
    return np.asarray((distance <= config.certain) | close, dtype=np.bool_)


def _without_repeats(found: list[tuple[Rows, Rows]], rows: int) -> Edges:
    """Edges once each; those that only the second list has were found by the embedding."""
    keys = [left * rows + right for left, right in found]
    first, second = np.unique(keys[0]), np.setdiff1d(keys[1], keys[0])
    key = np.concatenate([first, second])
    by_embedding = np.arange(len(key)) >= len(first)
    return Edges(key // rows, key % rows, by_embedding)
