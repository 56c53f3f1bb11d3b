from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.handles import DatasetHandle
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.sampled import of_all_clusters
from dinomill.storage.atomic import write_parquet
from tests.images.conftest import write_dataset


def clustered(folder: Path, clusters: Sequence[int | None]) -> DatasetHandle:
    """A dataset of small images, each of a cluster."""
    dataset = write_dataset(folder, [np.full((2, 2, 3), number, np.uint8) for number in range(len(clusters))])
    rows = pq.read_table(dataset.manifest).to_pylist()
    told = [rows[0], *(row | {"cluster": one} for row, one in zip(rows[1:], clusters, strict=True))]
    write_parquet(dataset.manifest, pa.Table.from_pylist(told, MANIFEST_SCHEMA))
    return dataset


@pytest.mark.parametrize(("count", "said"), [(5, [0, 10, 20, 29, 39]), (2, [0, 39]), (1, [0])])
def test_of_more_clusters_than_images_they_are_taken_evenly(tmp_path: Path, count: int, said: list[int]) -> None:
    """The first ones alone gave an image."""
    dataset = clustered(tmp_path, [number // 2 for number in range(80)])
    assert [row["cluster"] for _, row in of_all_clusters(dataset, count)] == said


def test_large_clusters_come_as_well_as_small_ones(tmp_path: Path) -> None:
    """Small ones were asked first, so that none was left for the others."""
    dataset = clustered(tmp_path, [cluster for cluster in range(8) for _ in range(8 - cluster)])
    assert [row["cluster"] for _, row in of_all_clusters(dataset, 4)] == [0, 2, 5, 7]


def test_as_many_of_each_cluster(tmp_path: Path) -> None:
    dataset = clustered(tmp_path, [0] * 20 + [1] * 2 + [None] + [2] * 7)
    found = [row["cluster"] for _, row in of_all_clusters(dataset, 13)]
    assert {one: found.count(one) for one in (0, 1, 2, None)} == {0: 5, 1: 2, 2: 5, None: 1}
