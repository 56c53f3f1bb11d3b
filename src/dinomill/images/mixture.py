"""Which share of the images of a training comes from where: names of parts of a dataset, each with its weight.

A part is named by a group of the manifest (``pool``, or a seed set that is taken whole), by a source as globals.yml
names it, or by a folder in one. The order stays a function of (seed, epoch, step): positions of the endless stream are
dealt out to the parts in rounds of 4,096, in each of which every part has its exact share, and a part's own images
follow each other in epochs of their own, each permuted as ``sampler`` permutes a whole dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dinomill.arrays import Rows
from dinomill.errors import ConfigError
from dinomill.images.manifest import Fate, read_manifest
from dinomill.images.sampler import permute

OTHERS = "others"  # what no other name means
_ROUND = 4_096
_SHOWN = 12
_SEEDS = "seeds:"


@dataclass(frozen=True)
class MixedSampler:
    """Which images a rank sees at a step, where the parts of a dataset have weights; as ``Sampler`` otherwise.

    Args:
        parts: The rows of each part ``[n]``; each row is in one.
        quotas: Images of each part in a round.
        batch: Images a rank takes at a step.
        seed: Another seed, another order.
        rank: This process, of ``world``.
    """

    parts: tuple[Rows, ...]
    quotas: tuple[int, ...]
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def at(self, step: int) -> tuple[Rows, Rows]:
        """The epochs ``[B]`` and rows ``[B]`` of this rank's images at a step; each part counts epochs of its own."""
        first = (step * self.world + self.rank) * self.batch
        rounds, within = np.divmod(np.arange(first, first + self.batch, dtype=np.int64), sum(self.quotas))
        places = np.empty_like(within)
        for number in np.unique(rounds):
            here = rounds == number
            # A key of its own: -1 is the epoch of no part.
            places[here] = permute(within[here], sum(self.quotas), _key(self.seed, -1), int(number))
        ends = np.cumsum(self.quotas)
        part_of = np.searchsorted(ends, places, side="right")
        epochs, rows = np.empty_like(within), np.empty_like(within)
        for part in np.unique(part_of):
            here = part_of == part
            quota, members = self.quotas[part], self.parts[part]
            position = rounds[here] * quota + places[here] - (ends[part] - quota)
            epochs[here], inside = np.divmod(position, len(members))
            rows[here] = members[self._permuted(inside, epochs[here], int(part))]
        return epochs, rows

    def alike(self, row: int) -> Sequence[int] | Rows:
        """The images of which one may take another's place: those of its part."""
        return next(part for part in self.parts if row in part[np.searchsorted(part, row) :][:1])

    def _permuted(self, inside: Rows, epochs: Rows, part: int) -> Rows:
        found = np.empty_like(inside)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = permute(inside[here], len(self.parts[part]), _key(self.seed, part), int(epoch))
        return found


def mixed_sampler(
    mix: Mapping[str, float], manifest: Path, batch: int, seed: int, rank: int = 0, world: int = 1
) -> MixedSampler:
    """The sampler of a dataset by the weights of its parts.

    Raises:
        ConfigError: When a name means none of its images, or an image has no name.
    """
    table = read_manifest(manifest, ["path", "source", "group", "fate"])
    table = table.filter(pc.equal(table["fate"], Fate.KEPT.value))
    names = tuple(sorted(mix))
    part = part_of(names, table)
    check_parts(names, part, table, where=f"the dataset {manifest.parent}")
    return MixedSampler(
        parts=tuple(np.flatnonzero(part == number) for number in range(len(names))),
        quotas=quotas([mix[name] for name in names]),
        batch=batch,
        seed=seed,
        rank=rank,
        world=world,
    )


def part_of(names: Sequence[str], table: pa.Table) -> npt.NDArray[np.int64]:
    """The number of the name that means each row, -1 where none does: int64 [rows].

    A folder wins against a group, of folders the longest name.

    Args:
        names: Of parts; ``others`` is the rest.
        table: ``source``, ``group`` and ``path`` of the images.
    """
    part = np.full(len(table), names.index(OTHERS) if OTHERS in names else -1, dtype=np.int64)
    source = pc.utf8_rtrim(table["source"], "/")
    own = pc.binary_join_element_wise(source, table["path"], "/")
    short = pc.replace_substring_regex(source, "^.*/", "")
    texts = (own, pc.binary_join_element_wise(short, table["path"], "/"), table["path"])
    named = sorted((name for name in names if name != OTHERS), key=len)
    for name in named:
        _set(part, names.index(name), pc.is_in(table["group"], pa.array([name, _SEEDS + name])))
    for name in named:  # a folder says more than its group
        # By whole folders: `a` is no beginning of `ab/…`. A source may be one file: a tar, a manifest.
        start = name.removeprefix("./").rstrip("/") + "/"
        for text in texts:
            _set(part, names.index(name), pc.starts_with(text, start))
    return part


def _set(part: npt.NDArray[np.int64], number: int, where: pa.ChunkedArray) -> None:
    part[np.asarray(pc.fill_null(where, False), dtype=np.bool_)] = number


def check_parts(names: Sequence[str], part: npt.NDArray[np.int64], table: pa.Table, *, where: str) -> None:
    """Whether every name means something and everything has a name.

    Raises:
        ConfigError: With the names that there could be.
    """
    count = np.bincount(part[part >= 0], minlength=len(names))
    without = [name for name, images in zip(names, count, strict=True) if not images]
    if without:
        raise ConfigError(
            f"`mix` names parts that hold no image: {', '.join(without)}.",
            found=f"{where} has {_those_there(table)}",
            action="use a source, a folder in one, a seed set that is taken whole, or `pool`, as they are listed here",
        )
    if (part < 0).any():
        left = table.filter(pa.array(part < 0))
        raise ConfigError(
            f"`mix` leaves {len(left):,} of {len(table):,} images without a weight.",
            found=_those_there(left),
            action=f"name them too, or add `{OTHERS}: 1`",
        )


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Images of each part in a round: whole numbers in the proportion of the weights, none of them zero.

    Raises:
        ConfigError: When a weight is too small beside the others.
    """
    exact = np.array(weights) * (_ROUND / sum(weights))
    if not exact.min() >= 1:  # so that NaN is refused too
        raise ConfigError(
            "A weight of `mix` is too small beside the others.",
            found=f"{min(weights):g} of {sum(weights):g}",
            expected=f"at least one image in {_ROUND:,}",
        )
    whole = np.floor(exact).astype(np.int64)
    # What is left over goes to those that lost most; of equals, the first.
    lost = np.argsort(-(exact - whole), kind="stable")[: _ROUND - int(whole.sum())]
    whole[lost] += 1
    return tuple(whole.tolist())


def _those_there(table: pa.Table) -> str:
    """The groups, sources and first folders of images, with their numbers, most first."""
    folder = pc.if_else(
        pc.match_substring(table["path"], "/"), pc.replace_substring_regex(table["path"], "/.*", ""), ""
    )
    group = pc.replace_substring_regex(pc.fill_null(table["group"], "pool"), f"^{_SEEDS}", "")
    counted = pa.table({"group": group, "source": table["source"], "folder": folder})
    rows = counted.group_by(["group", "source", "folder"]).aggregate([([], "count_all")]).to_pylist()
    rows.sort(key=lambda row: (-row["count_all"], row["group"], row["source"], row["folder"]))
    shown = [
        f"{row['source'].rstrip('/')}{'/' + row['folder'] if row['folder'] else ''} ({row['count_all']:,}"
        f"{', ' + row['group'] if row['group'] != 'pool' else ''})"
        for row in rows[:_SHOWN]
    ]
    return ", ".join(shown) + (f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else "")


def _key(seed: int, part: int) -> int:
    """A seed for each part: parts of the same size would have the same order."""
    words = np.random.SeedSequence([seed, part + 1, 0x6D6978]).generate_state(1, np.uint64)  # "mix"
    return int(words[0])
