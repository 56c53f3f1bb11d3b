"""Which pairs of images show the same picture.

A pair is an edge when one is among the other's nearest signatures or embeddings, **and** their signatures agree:
their distance (1 − correlation) is at most ``certain``; or at most ``max_distance`` and at most ``ratio`` times the
distance to the ``crowd``-th nearest neighbour of either. The second half keeps apart what is merely alike: in a
pool of nothing but trousers every pair is close, but a copy is much closer than the crowd. **And** their colours are
the same, where both show any (colour.py).

Where the same thing is always at the same place (X-rays, solar cells), some different images are as close as a
brightened copy elsewhere: cells cut from the same ingot. What tells a copy there is that nothing but an edit's noise
lies between the two, and of that less is left the more pixels a cell of the thumbnail averages: no distance may exceed
``max_distance`` times 32² over the pixels of the smaller image.

With ``trust_embedding``, a cosine above ``cosine`` is enough, as in the paper (k = 64, 0.6 within the pool, 0.45
against labelled images): right for a network made for copy detection, wrong for one made to find two shirts alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.copies.colour import other_colours
from dinomill.curation.copies.stays import Pairs, Verdict
from dinomill.curation.scan.signatures import Colours
from dinomill.vectors.index import SearchConfig, SearchReport, exact_similarity
from dinomill.vectors.products import Rows, Scored, Vectors
from dinomill.vectors.self_join import Question, Scratch, join

Figures = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_SLACK = 1e-3  # the index works in float32 or float16; the decision is made on exact figures
_THUMBNAIL = 32 * 32  # pixels that a signature is made from
_NOISE = 5e-4  # distance of a copy in the largest images: what 8-bit signatures and JPEG leave
_ALIGNED = 0.3  # median correlation of two images; 0.11 to 0.12 in mixed pools and on garments, 0.57 on solar cells
_ALIGNMENT_OF = 1_000  # images
_PAIRS_AT_ONCE = 1_000_000


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
    colour: float | None = Field(
        default=12.0,
        ge=0,
        le=255,
        description="grey levels that colours of copies may differ by, where both show any; null: colours do not count",
    )
    aligned: bool | None = Field(
        default=None,
        description="whether the same thing is always at the same place, so that only what an edit's noise explains is "
        "a copy; null: measured",
    )
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


class Pictures(NamedTuple):
    """What is known of images beside their vectors, by scan row."""

    colours: Colours
    area: Figures  # pixels; 0: not known


class Edges(NamedTuple):
    """Pairs of scan rows that show the same picture."""

    pairs: Pairs
    other_colour: Pairs  # the same picture but for its colours
    searches: dict[str, SearchReport]  # how candidates were found: signatures, embeddings
    rule: Rule

    @property
    def left(self) -> Rows:
        """The smaller row of each pair."""
        return self.pairs.left

    @property
    def right(self) -> Rows:
        """The larger."""
        return self.pairs.right


@dataclass(frozen=True)
class Rule:
    """When two images show the same picture."""

    config: DeduplicationConfig
    aligned: bool  # whether the same thing is always at the same place
    looks: Vectors  # signatures by scan row
    crowd: Figures  # how far the crowd is from each scan row; infinite where there is none
    pictures: Pictures | None
    features: Vectors  # by embedding row; read where they are trusted
    feature_row: Rows  # of each scan row
    labelled: Mask  # by scan row

    def judge(self, left: Rows, right: Rows) -> Verdict:
        """What is to be said about each pair of scan rows."""
        distance = 1 - exact_similarity(self.looks, left, right)
        look = self._same_look(left, right, distance)
        colour = self._other_colours(left, right, look)
        by_look = look & ~colour
        copies = by_look | self._same_features(left, right) if self.config.trust_embedding else by_look
        return Verdict(copies, colour & ~copies, distance, by_look)

    def _same_features(self, left: Rows, right: Rows) -> Mask:
        """Whether the embeddings alone say so."""
        cosine = exact_similarity(self.features, self.feature_row[left], self.feature_row[right])
        with_labelled = self.labelled[left] | self.labelled[right]
        limit = np.where(with_labelled, self.config.labelled_cosine, self.config.cosine)
        return np.asarray(cosine >= limit, dtype=np.bool_)

    def _same_look(self, left: Rows, right: Rows, distance: Figures) -> Mask:
        config = self.config
        furthest = np.full(len(distance), config.max_distance)
        certain = np.full(len(distance), config.certain)
        if self.aligned and self.pictures is not None:
            area = np.maximum(np.minimum(self.pictures.area[left], self.pictures.area[right]), _THUMBNAIL)
            furthest = np.minimum(furthest, np.maximum(furthest * _THUMBNAIL / area, _NOISE))
            certain = np.minimum(certain, furthest)
        close = np.minimum(furthest, config.ratio * np.minimum(self.crowd[left], self.crowd[right]))
        return np.asarray(distance <= np.maximum(certain, close), dtype=np.bool_)

    def _other_colours(self, left: Rows, right: Rows, asked: Mask) -> Mask:
        """Which of the pairs that are asked about show other colours."""
        found = np.zeros(len(left), dtype=np.bool_)
        if self.config.colour is None or self.pictures is None:
            return found
        place = np.flatnonzero(asked)
        left, right, area = left[place], right[place], self.pictures.area
        side = np.sqrt(np.minimum(area[left], area[right]))
        found[place] = other_colours(self.pictures.colours, left, right, side, self.config.colour)
        return found


def find_edges(
    looks: Vectors,
    features: Vectors,
    feature_row: Rows,
    rows: Rows,
    labelled: Mask,
    config: DeduplicationConfig,
    scratch: Scratch | None = None,
    *,
    pictures: Pictures | None = None,
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
        pictures: Colours and sizes; none: neither is asked.
    """
    crowd = np.full(len(labelled), np.inf)
    left, right, by_look = _signature_candidates(looks, rows, crowd, config, scratch)
    aligned = is_aligned(looks, rows, 2 * config.crowd) if config.aligned is None else config.aligned
    rule = Rule(config, aligned, looks, crowd, pictures, features, feature_row, labelled)
    judged, searches = list(_judged(rule, left, right)), {"signatures": by_look}
    if config.embedding_neighbours:
        lowest = min(config.cosine, config.labelled_cosine) if labelled[rows].any() else config.cosine
        left, right, searches["embeddings"] = embedding_candidates(features, feature_row[rows], lowest, config, scratch)
        back = np.full(len(features), -1, dtype=np.int64)
        back[feature_row[rows]] = rows
        judged += _judged(rule, back[left], back[right])
    pairs, other_colour = (_once(list(some), len(labelled)) for some in zip(*judged, strict=True))
    return Edges(pairs, other_colour, searches, rule)


def _judged(rule: Rule, left: Rows, right: Rows) -> Iterator[tuple[Pairs, Pairs]]:
    """Of some candidates at a time: which are copies, and which are but for their colours."""
    for start in range(0, max(len(left), 1), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        verdict = rule.judge(left[some], right[some])
        pairs = Pairs(left[some], right[some], verdict.distance)
        yield pairs.only(verdict.copies), pairs.only(verdict.colour)


def _once(some: list[Pairs], rows: int) -> Pairs:
    """Each pair of several lists once."""
    left, right, distance = (np.concatenate(parts) for parts in zip(*some, strict=True))
    _, place = np.unique(left * rows + right, return_index=True)
    return Pairs(left[place], right[place], distance[place])


def is_aligned(looks: Vectors, rows: Rows, at_least: int) -> bool:
    """Whether two images that have nothing to do with each other correlate all the same, by a sample of ``rows``.

    The median over pairs, so that copies do not count; False for fewer images than ``at_least``.
    """
    if len(rows) < at_least:
        return False
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _ALIGNMENT_OF)).astype(np.int64))]
    taken = looks.take(some)
    taken = taken[np.abs(taken).max(axis=1) > 0].astype(np.float64)
    if len(taken) < at_least:
        return False
    correlation = (taken @ taken.T)[np.triu_indices(len(taken), 1)]
    return bool(round(float(np.median(correlation)), 3) >= _ALIGNED)


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
