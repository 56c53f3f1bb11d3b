"""Which pairs of images show the same picture.

A pair is an edge when one is among the other's nearest signatures or embeddings, **and** their signatures agree:
their distance (1 − correlation) is at most ``certain``; or at most ``max_distance`` and at most ``ratio`` times the
distance to the ``crowd``-th nearest neighbour of either. The second half keeps apart what is merely alike: in a
pool of nothing but trousers every pair is close, but a copy is much closer than the crowd.

With ``trust_embedding``, a cosine above ``cosine`` is enough, as in the paper (k = 64, 0.6 within the pool, 0.45
against labelled images): right for a network made for copy detection, wrong for one made to find two shirts alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.config import Config
from dinomill.vectors.index import SearchConfig, SearchReport, exact_similarity
from dinomill.vectors.products import Rows, Scored, Vectors
from dinomill.vectors.self_join import Question, Scratch, join

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
    searches: dict[str, SearchReport]  # how candidates were found: signatures, embeddings


def find_edges(
    looks: Vectors,
    features: Vectors,
    feature_row: Rows,
    rows: Rows,
    labelled: Mask,
    config: DeduplicationConfig,
    scratch: Scratch | None = None,
) -> Edges:
    """All edges among ``rows``.

    Args:
        looks: Signatures by scan row.
        features: Embeddings by embedding row.
        feature_row: The embedding row of each scan row.
        rows: The scan rows to compare, in order: one of each group of equal pixels.
        labelled: Which scan rows are labelled, bool.
        config: When a pair is an edge.
        scratch: Where the search of many rows leaves unfinished work.
    """
    crowd = np.full(len(labelled), np.inf)
    left, right, by_look = _signature_candidates(looks, rows, crowd, config, scratch)
    alike = _same_look(looks, left, right, crowd, config)
    found = [(left[alike], right[alike])]
    searches = {"signatures": by_look}
    if config.embedding_neighbours:
        lowest = min(config.cosine, config.labelled_cosine) if labelled[rows].any() else config.cosine
        left, right, searches["embeddings"] = embedding_candidates(features, feature_row[rows], lowest, config, scratch)
        cosine = exact_similarity(features, left, right)
        back = np.full(len(features), -1, dtype=np.int64)
        back[feature_row[rows]] = rows
        left, right = back[left], back[right]
        if config.trust_embedding:
            limit = np.where(labelled[left] | labelled[right], config.labelled_cosine, config.cosine)
            agreed = cosine >= limit
        else:
            agreed = _same_look(looks, left, right, crowd, config)
        found.append((left[agreed], right[agreed]))
    return _without_repeats(found, len(labelled), searches)


def embedding_candidates(
    features: Vectors, rows: Rows, lowest: float, config: DeduplicationConfig, scratch: Scratch | None = None
) -> tuple[Rows, Rows, SearchReport]:
    """Pairs of embeddings whose cosine is about ``lowest`` or more; exact figures decide."""
    question = Question(neighbours=config.embedding_neighbours, floor=lowest - _SLACK)
    found = join(
        features, rows, question, config.search, name="curation: close embeddings", scratch=_of(scratch, "embeddings")
    )
    return (*_pairs(found.pairs), found.report)


def _signature_candidates(
    looks: Vectors, rows: Rows, crowd: Figures, config: DeduplicationConfig, scratch: Scratch | None
) -> tuple[Rows, Rows, SearchReport]:
    """Pairs of close signatures; fills in how far the crowd is from each row."""
    question = Question(
        neighbours=max(config.signature_neighbours, config.crowd),
        floor=1 - config.max_distance - _SLACK,
        crowd=config.crowd,
    )
    found = join(
        looks, rows, question, config.search, name="curation: close signatures", scratch=_of(scratch, "signatures")
    )
    if len(rows) > config.crowd:
        crowd[rows] = np.round(1 - found.crowd.astype(np.float64), 4)
    return (*_pairs(found.pairs), found.report)


def _of(scratch: Scratch | None, vectors: str) -> Scratch | None:
    """The same place for other vectors: where every file is readable, both searches are over the same rows."""
    return scratch and scratch._replace(key=f"{scratch.key} {vectors}")


def _pairs(found: Scored) -> tuple[Rows, Rows]:
    """Each pair, smaller row first."""
    return np.minimum(found.query, found.row), np.maximum(found.query, found.row)


def _same_look(looks: Vectors, left: Rows, right: Rows, crowd: Figures, config: DeduplicationConfig) -> Mask:
    """Whether the signatures of each pair agree."""
    distance = 1 - exact_similarity(looks, left, right)
    close = distance <= np.minimum(config.max_distance, config.ratio * np.minimum(crowd[left], crowd[right]))
    return np.asarray((distance <= config.certain) | close, dtype=np.bool_)


def _without_repeats(found: list[tuple[Rows, Rows]], rows: int, searches: dict[str, SearchReport]) -> Edges:
    """Edges once each; those that only the second list has were found by the embedding."""
    keys = [np.unique(left * rows + right) for left, right in found]
    key = np.concatenate([keys[0], *(np.setdiff1d(more, keys[0]) for more in keys[1:])])
    by_embedding = np.arange(len(key)) >= len(keys[0])
    return Edges(key // rows, key % rows, by_embedding, searches)
