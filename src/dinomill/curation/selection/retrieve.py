"""Which images of the pool are like the good examples: three ways to ask, one or more sets of seeds.

- ``similar``: an image is wanted when its score (score.py: how close it is to its nearest seeds, less what is owed to
  the crowd around it) is at least that of all but the least typical seeds. The threshold is the leave-one-out score
  that a share ``coverage`` of the seeds reaches; if the seeds are a fair draw of what is wanted, about that share of it
  is kept, whatever else is in the pool (conformal prediction). How much else is kept, judge.py estimates.
- ``sample`` (paper, §3): the k nearest images of each seed; an image wanted by several goes to the closest, the others
  go on to their next. For seed sets that are large themselves.
- ``cluster`` (paper, §3): k-means cells of the pool; a cell that holds enough seeds gives up to so many images, those
  closest to the seeds. For small seed sets and huge pools.
- ``none``: it asks for nothing; for a set that is only taken whole (``as_is``; paper, appendix A).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dinomill.arrays import Figures, Rows
from dinomill.config import Config
from dinomill.curation.selection.score import score
from dinomill.errors import ConfigError
from dinomill.vectors.index import Index, SearchConfig, SearchReport
from dinomill.vectors.kmeans import assign, kmeans
from dinomill.vectors.products import Vectors

_BELOW_ALL = -2.0  # no score is as low


class SeedSetConfig(Config):
    """How one set of seeds asks for images."""

    mode: Literal["similar", "sample", "cluster", "none"] = Field(
        default="similar", description="how the set asks; see the module's docstring"
    )
    as_is: bool = Field(
        default=False, description="the set's own images go into the dataset, whatever is retrieved and balanced"
    )
    coverage: float = Field(
        default=0.95, gt=0, lt=1, description="similar: the share of what is like the seeds to keep"
    )
    contrast: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of an image's similarity to the pool that its score loses (score.py)",
    )
    agreement: float = Field(
        default=0.5, ge=0, le=1, description="share of an image's score that is the mean score of the images around it"
    )
    neighbours: int = Field(default=4, ge=1, description="sample: images a seed (paper: 4; 32 for ImageNet-1k)")
    cells: int = Field(default=1000, ge=1, description="cluster: k-means cells of the pool (paper: 100,000)")
    minimum_seeds: int = Field(default=4, ge=1, description="cluster: seeds that a cell must hold (paper: more than 3)")
    images_per_cell: int = Field(
        default=10_000, ge=1, description="cluster: images a cell gives at most (paper: 10,000)"
    )
    limit: int | None = Field(default=None, ge=1, description="images that the set asks for at most (paper: 1,000,000)")

    @model_validator(mode="after")
    def _of_some_use(self) -> Self:
        if self.mode == "none" and not self.as_is:
            raise ValueError("a set in mode none asks for nothing: set as_is, or leave it out")
        return self


class RetrievalConfig(Config):
    """How seeds ask for images."""

    default: SeedSetConfig = SeedSetConfig()
    sets: dict[str, SeedSetConfig] = Field(default_factory=dict, description="settings of single seed sets, by name")
    search: SearchConfig = SearchConfig()
    seed: int = Field(default=0, ge=0, description="of the k-means")

    def for_set(self, name: str) -> SeedSetConfig:
        """The settings of a set."""
        return self.sets.get(name, self.default)


class Retrieved(NamedTuple):
    """What one set of seeds asks for, and how everything scores."""

    wanted: npt.NDArray[np.bool_]  # [candidates]
    nearest: Rows  # [candidates]: the closest seed, a row of the embeddings
    similarity: Figures  # [candidates]: to it
    score: Figures  # [candidates]: how like the seeds; see score.py
    own: Figures  # [seeds]: the seeds' own scores
    threshold: float | None  # similar: the score where it stops
    search: SearchReport  # how the nearest were found


def check_names(config: RetrievalConfig, names: list[str]) -> None:
    """Refuse settings for a seed set that there is not.

    Raises:
        ConfigError: When ``sets`` names one.
    """
    if unknown := sorted(set(config.sets) - set(names)):
        raise ConfigError(
            f"curation.retrieval.sets has settings for {', '.join(unknown)}, and there is no such seed set.",
            expected=", ".join(names) or "no settings: there are no seeds",
            action="use the names under `seeds` in globals.yml",
        )


def retrieve(
    vectors: Vectors, candidates: Rows, seeds: Rows, config: SeedSetConfig, search: SearchConfig, seed: int
) -> Retrieved:
    """Ask one set of seeds.

    Args:
        vectors: Embeddings.
        candidates: Rows of the pool's images that are still in.
        seeds: Rows of the seeds.
        config: How.
        search: How neighbours are found.
        seed: Of the k-means.
    """
    scores = score(vectors, candidates, seeds, search, contrast=config.contrast, agreement=config.agreement)
    threshold, report = None, scores.search
    if config.mode == "similar":
        threshold = _reached_by(scores.own, config.coverage)
        wanted = scores.score >= threshold
    elif config.mode == "sample":
        wanted, report = _sample(vectors, candidates, seeds, config.neighbours, search)
    else:
        assert config.mode == "cluster", "a set that asks for nothing is not asked"
        wanted = _cluster(vectors, candidates, seeds, scores.similarity, config, seed)
    wanted = _capped(wanted, scores.score, config.limit)
    return Retrieved(wanted, scores.nearest, scores.similarity, scores.score, scores.own, threshold, report)


def _reached_by(own: Figures, coverage: float) -> float:
    """The score that a share ``coverage`` of the seeds reaches; without any, everything does."""
    if not len(own):
        return _BELOW_ALL
    place = int(np.floor((1 - coverage) * (len(own) + 1))) - 1
    return float(np.round(np.sort(own)[max(place, 0)], 4))


def _sample(
    vectors: Vectors, candidates: Rows, seeds: Rows, k: int, search: SearchConfig
) -> tuple[npt.NDArray[np.bool_], SearchReport]:
    """The k nearest candidates of each seed; one counts for the closest seed that asks, the others ask further."""
    index = Index(vectors, candidates, search, queries=len(seeds))
    wide = min(4 * k, len(candidates))
    found = index.search(vectors.take(seeds), wide)
    place = np.searchsorted(candidates, found.row)  # candidates are in order
    asked = np.argsort(-found.similarity.ravel(), kind="stable")
    taken = np.zeros(len(candidates), dtype=np.bool_)
    got = np.zeros(len(seeds), dtype=np.int64)
    width = found.row.shape[1]
    for one in asked:
        query, target = one // width, place.ravel()[one]
        if got[query] < k and not taken[target] and found.row.ravel()[one] >= 0:
            taken[target] = True
            got[query] += 1
    return taken, index.report(wide)


def _cluster(
    vectors: Vectors, candidates: Rows, seeds: Rows, similarity: Figures, config: SeedSetConfig, seed: int
) -> npt.NDArray[np.bool_]:
    """All or the best images of the cells that hold enough seeds."""
    centres = kmeans(vectors, candidates, min(config.cells, max(1, len(candidates) // 8)), seed=seed)
    cell, home = assign(vectors, candidates, centres), assign(vectors, seeds, centres)
    held = np.bincount(home, minlength=len(centres))
    order = np.lexsort((np.arange(len(cell)), -similarity, cell))
    starts = np.searchsorted(cell[order], np.arange(len(centres)))
    place = np.empty(len(cell), dtype=np.int64)
    place[order] = np.arange(len(cell)) - starts[cell[order]]
    return np.asarray((held[cell] >= config.minimum_seeds) & (place < config.images_per_cell))


def _capped(wanted: npt.NDArray[np.bool_], similarity: Figures, limit: int | None) -> npt.NDArray[np.bool_]:
    """At most ``limit`` of the wanted, those closest to a seed."""
    if limit is None or int(wanted.sum()) <= limit:
        return wanted
    rows = np.flatnonzero(wanted)
    kept = rows[np.argsort(-similarity[rows], kind="stable")[:limit]]
    capped = np.zeros_like(wanted)
    capped[kept] = True
    return capped
