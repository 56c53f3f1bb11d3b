"""Images of more than 8 bits, and large ones, through the whole stage: what is black, stored, and seen by a loader."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from dinomill.curation.config import CurationConfig
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.curation.stage import curate
from dinomill.errors import ConfigError
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.decode import decode_image, stored_values
from dinomill.images.manifest import read_kept
from dinomill.images.reduced import reduce_to, reduced_size
from dinomill.images.shards import Location, ShardReader
from dinomill.planning.pool import survey
from dinomill.training.handover import preprocessing

Configure = Callable[..., CurationConfig]
RANGE = (0.0, 4095.0)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray[Any, np.dtype[np.uint8]]:
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, photograph: Any) -> Path:
    """Grey pictures of 12 bits: eight PNG of 16 bits, eight TIFF of floats, two JPEG of 8 bits beside them."""
    folder = tmp_path_factory.mktemp("cells")
    for number in range(18):
        y, x = 96 * (number // 4), 96 * (number % 4)
        shown = photograph[y : y + 96, x : x + 120, 1]
        if number < 8:
            cv2.imwrite(str(folder / f"{number:02d}.png"), (shown.astype(np.uint16) * 16))
        elif number < 16:
            tifffile.imwrite(folder / f"{number:02d}.tif", shown.astype(np.float32) * 16, compression="lzw")
        else:
            Image.fromarray(photograph[y : y + 96, x : x + 120]).save(folder / f"{number:02d}.jpg", quality=95)
    return folder


def test_one_range_for_pool_dataset_and_models(cells: Path, tmp_path: Path, configure: Configure) -> None:
    config = configure(tmp_path, scan={"preflight": {"value_range": RANGE}}, write={"max_side": 80, "channels": 3})
    dataset = curate([str(cells)], None, None, config)
    rows = {row["path"]: row for row in pq.read_table(dataset.manifest).to_pylist()}
    assert {row["fate"] for row in rows.values()} <= {"kept", "near_duplicate"}
    assert dataset.value_range == RANGE
    kept, reader = read_kept(dataset.manifest), ShardReader(dataset.shards)
    assert len(kept) > 12
    for path, shard, offset, length, size in zip(
        kept.paths.to_pylist(), kept.shards, kept.offsets, kept.lengths, kept.sizes, strict=True
    ):
        row, data = rows[path], bytes(reader.read(Location(int(shard), int(offset), int(length))))
        assert (row["width"], row["height"], row["stored_width"], row["stored_height"]) == (120, 96, 80, 64)
        assert (tuple(size), row["reduced"]) == ((64, 80), True)
        shown = decode_image(data, value_range=dataset.value_range)
        assert shown.shape == (64, 80, 3)
        whole = decode_image((cells / path).read_bytes(), value_range=RANGE)
        assert np.abs(shown.astype(int) - reduce_to(whole, (80, 64))).mean() < 2.5
        if not path.endswith("jpg"):
            stored = stored_values(data)
            assert stored is not None and stored.dtype == (np.uint16 if path.endswith("png") else np.float32)
        else:
            assert data[:3] == b"\xff\xd8\xff"
    assert 0.2 < dataset.mean[0] < 0.7, "not nearly black"

    job = SimpleNamespace(mean=None, std=None, recipe=SimpleNamespace(crops=SimpleNamespace(global_size=64)))
    assert preprocessing(job, dataset).value_range == RANGE  # type: ignore[arg-type]


def test_twelve_bits_in_sixteen_are_noticed(cells: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    for file in cells.glob("*.png"):
        (deep / file.name).write_bytes(file.read_bytes())
    execution, work = ExecutionConfig(executor="inline"), tmp_path / "work"
    with caplog.at_level(logging.WARNING):
        made = scan({"pool": [str(deep)]}, ScanConfig(), folder=tmp_path / "a", work=work, execution=execution)
    assert "value_range: [0, 4095]" in caplog.text
    assert made.deep == 8
    assert made.largest is not None and made.largest <= 4095
    caplog.clear()
    said = ScanConfig.model_validate({"preflight": {"value_range": RANGE}})
    made = scan({"pool": [str(deep)]}, said, folder=tmp_path / "b", work=work, execution=execution)
    assert (made.value_range, made.deep, caplog.text) == (RANGE, 8, "")


def test_the_survey_measures_the_range(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for file in cells.glob("*.png"):
        (tmp_path / "deep" / file.name).write_bytes(file.read_bytes())
    assert survey([str(tmp_path / "deep")]).value_range == RANGE
    mixed = survey([str(cells)])
    assert mixed.unreadable == {}
    assert mixed.value_range is not None
    assert mixed.value_range[0] >= 0 and 2_000 < mixed.value_range[1] <= 4_095


def test_a_range_that_is_none() -> None:
    with pytest.raises(ConfigError, match="black must lie below white"):
        ScanConfig.parse({"preflight": {"value_range": [5, 5]}}, where="here")


def test_sizes_and_means() -> None:
    assert reduced_size(4000, 3000, 1000) == (1000, 750)
    assert reduced_size(65_000, 3, 1000) == (1000, 1)
    assert reduced_size(400, 300, 1000) == reduced_size(400, 300, None) == (400, 300)
    steps = np.arange(16).reshape(4, 4)
    for kind in (np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64):
        smaller = reduce_to((steps * 4).astype(kind), (2, 2))
        assert smaller.dtype == kind
        assert np.array_equal(smaller, [[10, 18], [42, 50]])
    assert reduce_to(np.zeros((8, 8, 5), np.float32), (4, 4)).shape == (4, 4, 5)


def test_what_is_not_larger_keeps_its_bytes(tmp_path: Path, photograph: Any, configure: Configure) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for number, side in enumerate((64, 64, 90, 200, 300)):
        buffer = io.BytesIO()
        Image.fromarray(photograph[number * 40 : number * 40 + side, number * 30 : number * 30 + side]).save(
            buffer, "PNG"
        )
        (pool / f"{number}.png").write_bytes(buffer.getvalue())
    dataset = curate([str(pool)], None, None, configure(tmp_path / "out", write={"max_side": 100}))
    reader = ShardReader(dataset.shards)
    for row in pq.read_table(dataset.manifest).to_pylist():
        if row["fate"] == "kept":
            data = bytes(reader.read(Location(row["shard"], row["offset"], row["length"])))
            same = data == (pool / row["path"]).read_bytes()
            assert same is not row["reduced"]
            assert max(row["stored_width"], row["stored_height"]) == min(max(row["width"], row["height"]), 100)
