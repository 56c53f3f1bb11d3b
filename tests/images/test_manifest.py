from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.errors import InputError
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import MANIFEST_SCHEMA, read_kept, read_manifest


def test_kept_rows_come_in_order(
    dataset: Callable[..., DatasetHandle], tiny_images: list[np.ndarray[Any, Any]]
) -> None:
    handle = dataset(tiny_images)
    assert len(read_manifest(handle.manifest)) == 151
    kept = read_kept(handle.manifest)
    assert len(kept) == 150
    assert kept.paths.to_pylist() == [f"{i}.png" for i in range(150)]
    assert kept.shards.tolist() == [i // 50 for i in range(150)]
    assert (kept.sizes == 28).all()


def test_errors_name_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(InputError, match=r"no manifest .*manifest\.parquet"):
        read_kept(path)
    path.write_bytes(b"PAR1 or so")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_kept(path)
    pq.write_table(pa.table({"path": ["a"]}), path)
    with pytest.raises(InputError, match="lacks columns"):
        read_manifest(path)
    rows = [{"path": "a", "source": "x", "fate": "kept", "height": 3, "width": 3}]
    pq.write_table(pa.Table.from_pylist(rows, MANIFEST_SCHEMA), path)
    with pytest.raises(InputError, match="without their shard"):
        read_kept(path)
