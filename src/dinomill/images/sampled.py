"""Some of a curated dataset's images: for a trial, for the ranges of 8 bits, for an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from dinomill.errors import InputError
from dinomill.handles import DatasetHandle


def sample_images(curated: DatasetHandle, count: int) -> list[bytes]:
    """Encoded images, evenly spread over the kept rows of a dataset's manifest.

    Raises:
        InputError: When the dataset keeps no image.
    """
    return [image for image, _ in sample_rows(curated, count)]


def sample_rows(curated: DatasetHandle, count: int) -> list[tuple[bytes, dict[str, Any]]]:
    """The same, each with its path, sha256 and cluster.

    Raises:
        InputError: When the dataset keeps no image.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from dinomill.images.manifest import Fate
    from dinomill.images.shards import Location, ShardReader

    places, told = ["shard", "offset", "length"], ["path", "sha256", "cluster"]
    table = pq.read_table(curated.manifest, columns=[*places, *told], filters=pc.field("fate") == Fate.KEPT.value)
    if table.num_rows == 0:
        raise InputError(f"{curated.manifest} keeps no image.", action="run the curation stage again")
    picked = np.unique(np.linspace(0, table.num_rows - 1, count).round().astype(int))
    reader = ShardReader(curated.shards)
    return [
        (bytes(reader.read(Location(*(row[name] for name in places)))), {name: row[name] for name in told})
        for row in table.take(picked).to_pylist()
    ]
