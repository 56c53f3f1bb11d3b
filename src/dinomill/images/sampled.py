"""Some of a curated dataset's images: for a trial, for the ranges of 8 bits, for an index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dinomill.arrays import Rows
from dinomill.errors import InputError
from dinomill.handles import DatasetHandle

_PLACES, _TOLD = ("shard", "offset", "length"), ("path", "sha256", "cluster")


def sample_images(curated: DatasetHandle, count: int) -> list[bytes]:
    """Encoded images, evenly spread over the kept rows of a dataset's manifest.

    Raises:
        InputError: When the dataset keeps no image.
    """
    table = _kept(curated)
    return [image for image, _ in _read(curated, table.take(_evenly(table.num_rows, count)))]


def of_all_clusters(curated: DatasetHandle, count: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Encoded images, as many of each cluster, each with its path, sha256 and cluster, in the manifest's order.

    Of a cluster that has fewer all are taken, and the others give more. Images without a cluster are one, too. Of more
    clusters than images each gives one at most: they are taken evenly over the clusters, in their order.

    Raises:
        InputError: When the dataset keeps no image.
    """
    table = _kept(curated)
    clusters = np.array([-1 if one is None else one for one in table.column("cluster").to_pylist()])
    names = np.unique(clusters)
    names = names[_evenly(len(names), count)]
    members = sorted((np.flatnonzero(clusters == one) for one in names), key=len)  # small ones first
    picked: list[np.ndarray[Any, Any]] = []
    left = min(count, table.num_rows)
    for number, rows in enumerate(members):
        share = min(len(rows), -(-left // (len(members) - number)))
        picked.append(rows[_evenly(len(rows), share)])
        left -= share
    return _read(curated, table.take(np.sort(np.concatenate(picked))))


def _kept(curated: DatasetHandle) -> Any:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from dinomill.images.manifest import Fate

    table = pq.read_table(curated.manifest, columns=[*_PLACES, *_TOLD], filters=pc.field("fate") == Fate.KEPT.value)
    if table.num_rows == 0:
        raise InputError(f"{curated.manifest} keeps no image.", action="run the curation stage again")
    return table


def _evenly(rows: int, count: int) -> Rows:
    picked: Rows = np.unique(np.linspace(0, rows - 1, min(count, rows)).round().astype(np.int64))
    return picked


def _read(curated: DatasetHandle, table: Any) -> Iterator[tuple[bytes, dict[str, Any]]]:
    from dinomill.images.shards import Location, ShardReader

    reader = ShardReader(curated.shards)
    for row in table.to_pylist():
        image = bytes(reader.read(Location(*(row[name] for name in _PLACES))))
        yield image, {name: row[name] for name in _TOLD}
