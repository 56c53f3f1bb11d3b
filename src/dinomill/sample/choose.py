"""Share the pictures out: pool, seeds, labelled bank and labelled queries have none in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dinomill.arrays import Pixels
from dinomill.errors import ConfigError
from dinomill.sample.config import SampleConfig
from dinomill.sample.fashion_mnist import read_split
from dinomill.sample.photographs import SCENES, SIDE, Tiles, scene, seen_otherwise, tiles

Random = np.random.Generator


class Chosen(NamedTuple):
    """Which pictures go where."""

    pool: list[Pixels]
    seeds: list[Pixels]
    bank: list[list[Pixels]]  # by class
    queries: list[list[Pixels]]
    scenes: dict[str, Pixels]


def choose(config: SampleConfig) -> Chosen:
    """The pictures of a sample.

    Raises:
        InputError: When the source is missing or damaged.
        MachineError: When the packages do not carry their photographs.
        ConfigError: When there are too few pictures of a class.
    """
    random = np.random.default_rng([config.seed, 1])
    return _photographs(config, random) if config.kind == "photographs" else _garments(config, random)


def _photographs(config: SampleConfig, random: Random) -> Chosen:
    whole = SCENES[: config.scenes]
    singles = [name for name in config.classes if name not in whole]
    wanted = dict(zip(singles, config.class_counts(len(singles)), strict=True))
    chosen = Chosen([], [], [], [], {name: scene(name) for name in whole})
    for name in config.classes:
        pool = tiles(name, "pool")
        # A tile that curation cuts itself is no seed: where it cuts, every 32 pixels, no seed lies.
        places = pool.places[((pool.places % SIDE) != 0).all(axis=1)] if name in whole else pool.places
        seeds = config.seeds // len(config.classes)
        found = _some(Tiles(pool.photograph, places), seeds + wanted.get(name, 0), f"pool of {name}", random)
        chosen.seeds.extend(found[:seeds])
        chosen.pool.extend(found[seeds:])
        chosen.bank.append(_some(tiles(name, "bank"), config.bank // len(config.classes), f"bank of {name}", random))
        queries = _some(tiles(name, "queries"), config.queries // len(config.classes), f"queries of {name}", random)
        chosen.queries.append([seen_otherwise(tile, random) for tile in queries])
    return chosen


def _some(found: Tiles, count: int, what: str, random: Random) -> list[Pixels]:
    if len(found.places) < count:
        raise ConfigError(
            f"The sample asks for more tiles of the {what} than there are.",
            found=f"{len(found.places)} that show something",
            expected=str(count),
            action="lower sample.originals, seeds, bank or queries",
        )
    return [found.cut(int(index)) for index in random.permutation(len(found.places))[:count]]


def _garments(config: SampleConfig, random: Random) -> Chosen:
    images, labels = read_split(config.source, "train")
    chosen = Chosen([], [], [], [], {})
    bank, seeds = config.bank // len(config.classes), config.seeds // len(config.classes)
    for label, (name, count) in enumerate(zip(config.classes, config.class_counts(), strict=True)):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) < bank + seeds + count:
            raise ConfigError(
                f"The sample asks for more images of the class {name} than its source has.",
                found=f"{len(rows)} in {config.source}",
                expected=f"{bank} for the bank, {seeds} seeds and {count} in the pool",
                action="lower sample.originals, or take all 70,000: sample.fetch: true, as in conf/fashion",
            )
        chosen.bank.append(list(images[rows[:bank]]))
        chosen.seeds.extend(images[rows[bank : bank + seeds]])
        chosen.pool.extend(images[rows[bank + seeds : bank + seeds + count]])
    return chosen._replace(queries=_garment_queries(config, random))


def _garment_queries(config: SampleConfig, random: Random) -> list[list[Pixels]]:
    images, labels = read_split(config.source, "t10k")
    each = config.queries // len(config.classes)
    found = []
    for label, name in enumerate(config.classes):
        rows = random.permutation(np.flatnonzero(labels == label))[:each]
        if len(rows) < each:
            raise ConfigError(
                f"The sample asks for more queries of the class {name} than its source has.",
                found=f"{len(rows)} in {config.source}",
                expected=str(each),
                action="lower sample.queries, or take all 70,000: sample.fetch: true, as in conf/fashion",
            )
        found.append(list(images[rows]))
    return found
