"""The curated dataset on disk: shards that hold what was kept, and what the manifest says of it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.curation.write import channel_statistics
from dinomill.images.decode import decode_image
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.shards import Location, ShardReader
from dinomill.storage.hashing import hash_bytes


def test_the_kept_images_are_in_the_shards_byte_for_byte(curated: Any) -> None:
    dataset, rows = curated
    assert pq.read_schema(dataset.manifest).names == MANIFEST_SCHEMA.names
    reader = ShardReader(dataset.shards)
    kept = [row for row in rows if row["fate"] == "kept"]
    assert len(kept) == dataset.images == dataset.fates["kept"]
    assert len(dataset.shards) == -(-len(kept) // 100)
    for row in kept:
        data = reader.read(Location(row["shard"], row["offset"], row["length"]))
        assert hash_bytes(bytes(data)) == row["sha256"]
    assert sum(dataset.fates.values()) == dataset.pool_images == len(rows)
    assert (dataset.channels, len(dataset.mean), len(dataset.std)) == (1, 1, 1)
    assert 0 < dataset.mean[0] < 1 and 0 < dataset.std[0] < 1


def test_a_shard_is_a_fair_draw_for_images_lie_by_their_hash(curated: Any) -> None:
    kept = sorted((row for row in curated[1] if row["fate"] == "kept"), key=lambda row: (row["shard"], row["offset"]))
    hashes = [row["sha256"] for row in kept]
    assert hashes == sorted(hashes)


def test_the_statistics_are_those_of_the_pixels(curated: Any) -> None:
    dataset, rows = curated
    reader = ShardReader(dataset.shards)
    kept = [row for row in rows if row["fate"] == "kept"]
    read = (reader.read(Location(row["shard"], row["offset"], row["length"])) for row in kept)
    grey = [decode_image(bytes(data)).astype(np.float64)[..., 0] / 255 for data in read]
    mean = np.mean([image.mean() for image in grey])
    spread = np.sqrt(np.mean([(image**2).mean() for image in grey]) - mean**2)
    # Of the rare coloured ones the luminance counts: the digits here are grey.
    assert dataset.mean[0] == pytest.approx(mean, abs=2e-3) and dataset.std[0] == pytest.approx(spread, abs=2e-3)


def _measured(*channels: int) -> pa.Table:
    """Images of one colour each: mean .2, .4, .6 by channel, luminance .4, without contrast."""
    colour = [0.2, 0.4, 0.6]
    rows = [
        {"channels": n, "brightness": 0.4, "contrast": 0.0, "mean": colour, "square": [v * v for v in colour]}
        for n in channels
    ]
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize(
    ("images", "wanted", "channels"),
    [([1] * 19 + [3], "auto", 1), ([1] * 18 + [3] * 2, "auto", 3), ([1, 1], 3, 3), ([3, 3], 1, 1)],
)
def test_a_twentieth_in_colour_is_still_grey(images: list[int], wanted: Literal["auto", 1, 3], channels: int) -> None:
    found, mean, std = channel_statistics(_measured(*images), wanted)
    assert found == channels == len(mean) == len(std)
    assert mean == ((0.4,) if channels == 1 else (0.2, 0.4, 0.6))
    assert all(value == pytest.approx(1e-4) for value in std)  # of flat images it is not 0: one divides by it
