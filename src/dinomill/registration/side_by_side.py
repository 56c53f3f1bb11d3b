"""What takes over from a champion, beside it: is it larger, slower, and do the same images lie beside one another?

Users' thresholds, indexes and labels were tuned on the champion's features. By how much the neighbourhoods differ says
how much of that has to be made again; a higher score does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dinomill.arrays import Floats
from dinomill.features.base import Features
from dinomill.features.door import open as open_features
from dinomill.handles import DatasetHandle
from dinomill.images.preprocess import preprocess_bytes
from dinomill.registration.config import CHAMPION, PromotionConfig
from dinomill.registration.gate import Check

_NEIGHBOURS = 10
_TIMED = 12
_TIMED_AGAIN = 3


@dataclass(frozen=True)
class SideBySide:
    """Two networks on the same images.

    Args:
        parameters: Of the new one, and of the champion.
        milliseconds: That an image takes, one at a time: of the new one, and of the champion, measured in turns.
        agreement: Share of the nearest neighbours that both name, with its interval: value, low, high.
        images: By which they were compared.
    """

    parameters: tuple[int, int]
    milliseconds: tuple[float, float] | None
    agreement: tuple[float, float, float] | None
    images: int


def asks_beside(gate: PromotionConfig) -> bool:
    """Whether anything is required of size, speed or neighbours."""
    asked = (gate.max_growth_from_champion, gate.max_slowdown_from_champion, gate.min_neighbour_agreement)
    return any(one is not None for one in asked)


def compare_with(folder: Path, champion: Path, images: Sequence[bytes]) -> SideBySide:
    """Embed images by both networks, and look at size, time and neighbours.

    Args:
        folder: The new export.
        champion: The champion's.
        images: Encoded images that both can take; none: the size alone is compared.
    """
    both = [open_features(one) for one in (folder, champion)]
    new, old = (network.description.parameters for network in both)
    if len(images) <= _NEIGHBOURS:
        return SideBySide((new, old), None, None, len(images))
    first, second = (np.concatenate([_embed(network, image) for image in images]) for network in both)
    times: tuple[list[float], list[float]] = ([], [])
    for image in [*images[:_TIMED]] * _TIMED_AGAIN:
        for network, taken in zip(both, times, strict=True):  # in turns: a busy machine slows both
            began = time.perf_counter()
            _embed(network, image)
            taken.append(1000 * (time.perf_counter() - began))
    milliseconds = statistics.median(times[0]), statistics.median(times[1])
    return SideBySide((new, old), milliseconds, _interval(agreement(first, second)), len(images))


@torch.inference_mode()
def _embed(network: Features, image: bytes) -> Floats:
    """The embedding of one encoded image, ``[1, D]``."""
    batch = torch.from_numpy(preprocess_bytes(image, network.preprocessing)).unsqueeze(0)
    found: Floats = network(batch).pooled(network.pooling).float().numpy()
    return found


def agreement(first: Floats, second: Floats, neighbours: int = _NEIGHBOURS) -> Floats:
    """Of each image, the share of its nearest neighbours that it has in both spaces, by cosine.

    Args:
        first: ``[N, D]``.
        second: ``[N, E]``.
        neighbours: How many of them are looked at.

    Returns:
        ``[N]``.
    """
    near = [_nearest(rows, neighbours) for rows in (first, second)]
    shared = [len(np.intersect1d(one, other)) / neighbours for one, other in zip(*near, strict=True)]
    return np.asarray(shared, dtype=np.float32)


def _nearest(rows: Floats, neighbours: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    close = unit @ unit.T
    np.fill_diagonal(close, -np.inf)
    return np.argpartition(-close, neighbours - 1, axis=1)[:, :neighbours]


def _interval(shares: Floats) -> tuple[float, float, float]:
    """The mean with its 95% interval, of images drawn again."""
    drawn = np.random.default_rng(0).integers(0, len(shares), (1000, len(shares)))
    low, high = np.quantile(shares[drawn].mean(axis=1), [0.025, 0.975])
    return float(shares.mean()), float(low), float(high)


def judge_beside(found: SideBySide, version: int, gate: PromotionConfig) -> tuple[Check, ...]:
    """The requirements on size, speed and neighbours; a figure without one is told all the same.

    Args:
        found: The comparison.
        version: Of the champion.
        gate: The requirements.
    """
    new, old = found.parameters
    growth = new / max(old, 1)
    whom = f"version {version}, the champion"
    checks = [
        _at_most(
            growth,
            gate.max_growth_from_champion,
            f"it has {new / 1e6:.2f} M parameters, {growth:.2f} times those of {whom} ({old / 1e6:.2f} M)",
        )
    ]
    if found.milliseconds is not None:
        mine, theirs = found.milliseconds
        slower = mine / max(theirs, 1e-9)
        said = f"an image takes {mine:.1f} ms here, {slower:.2f} times as long as with {whom} ({theirs:.1f} ms)"
        checks.append(_at_most(slower, gate.max_slowdown_from_champion, said))
    if found.agreement is not None:
        share, low, high = (100 * value for value in found.agreement)
        said = (
            f"{share:.1f}% [{low:.1f}, {high:.1f}] of the {_NEIGHBOURS} nearest neighbours of {found.images} curated "
            f"images are those of {whom}"
        )
        asked = gate.min_neighbour_agreement
        if asked is None:
            checks.append(Check(True, said, "told", CHAMPION))
        else:
            checks.append(Check(share >= asked, f"{said}; at least {asked:g}% is required", about=CHAMPION))
    return tuple(checks)


def _at_most(value: float, limit: float | None, said: str) -> Check:
    if limit is None:
        return Check(True, said, "told", CHAMPION)
    return Check(value <= limit, f"{said}; at most {limit:g} times is allowed", about=CHAMPION)


def curated_images(curated: DatasetHandle, count: int) -> list[bytes]:
    """Kept images of a dataset, evenly spread; none where its files are not on this machine."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from dinomill.images.manifest import Fate
    from dinomill.images.shards import Location, ShardReader

    if not curated.manifest.is_file() or not curated.shards or not all(shard.is_file() for shard in curated.shards):
        return []
    columns = ["shard", "offset", "length"]
    table = pq.read_table(curated.manifest, columns=columns, filters=pc.field("fate") == Fate.KEPT.value)
    if table.num_rows == 0:
        return []
    picked = np.unique(np.linspace(0, table.num_rows - 1, count).round().astype(int))
    reader = ShardReader(curated.shards)
    return [bytes(reader.read(Location(**row))) for row in table.take(picked).to_pylist()]
