"""Which images of the pool are like the good examples: three ways to ask, one or more sets of seeds.

- ``similar``: an image is wanted when it is at least as close to its nearest seed as all but the least typical
  seeds are to each other. The threshold is the leave-one-out similarity that a share ``coverage`` of the seeds
  reaches; if the seeds are a fair draw of what is wanted, about that share of it is kept, whatever else is in the
  pool (conformal prediction). For a few hundred seeds and a pool that should be cleaned rather than searched.
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

from dinomill.config import Config
from dinomill.errors import ConfigError
from dinomill.vectors.index import Index, InMemory, SearchConfig, SearchReport, exact_similarity
from dinomill.vectors.kmeans import assign, kmeans
from dinomill.vectors.products import Rows, Vectors, blocks, nearest_of_all

Figures = npt.NDArray[np.float64]


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
    """What one set of seeds asks for, and how close everything is to it."""

    wanted: npt.NDArray[np.bool_]  # [candidates]
    nearest: Rows  # [candidates]: the closest seed, a row of the embeddings
    similarity: Figures  # [candidates]: to it
    threshold: float | None  # similar: where it stops
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
    nearest, report = _nearest_seed(vectors, candidates, seeds, search)
    similarity = exact_similarity(vectors, candidates, nearest)
    threshold = None
    if config.mode == "similar":
        threshold = _leave_one_out(vectors, seeds, config.coverage)
        wanted = similarity >= threshold
    elif config.mode == "sample":
        wanted, report = _sample(vectors, candidates, seeds, config.neighbours, search)
    else:
        assert config.mode == "cluster", "a set that asks for nothing is not asked"
        wanted = _cluster(vectors, candidates, seeds, similarity, config, seed)
    return Retrieved(_capped(wanted, similarity, config.limit), nearest, similarity, threshold, report)


def _nearest_seed(vectors: Vectors, candidates: Rows, seeds: Rows, search: SearchConfig) -> tuple[Rows, SearchReport]:
    """The seed that each candidate is closest to."""
    if len(seeds) <= search.exact_up_to:
        place, _ = nearest_of_all(vectors, candidates, vectors.take(seeds))
        return seeds[place], SearchReport(kind="exact", rows=len(seeds), recall=1.0)
    index = Index(vectors, seeds, search)
    found = [index.search(vectors.take(block), 1).row[:, 0] for block in blocks(candidates)]
    return np.concatenate([*found, np.empty(0, np.int64)]), index.report(1)


def _leave_one_out(vectors: Vectors, seeds: Rows, coverage: float) -> float:
    """The similarity to their nearest fellow that all but a share 1 − coverage of the seeds reach."""
    rows = InMemory(vectors.take(seeds))
    found = Index(rows, np.arange(len(seeds)), SearchConfig()).search(rows.rows, 8)
    own = found.row == np.arange(len(seeds))[:, None]
    # A copy of a seed in the set says nothing of how far apart good images are.
    closest = np.where(own | (found.similarity > 0.9999), -1, found.similarity).max(axis=1)
    closest = np.sort(closest[closest > -1])
    if not len(closest):
        return -1.0
    place = int(np.floor((1 - coverage) * (len(closest) + 1))) - 1
    return float(np.round(closest[max(place, 0)], 4))


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
