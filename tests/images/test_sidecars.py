"""What lies beside images is passed over and counted; an image is an image under any name."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.labelled import find_labelled
from dinomill.images.listing import list_items


def _image(kind: str, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


BESIDE = {
    "a.txt": b"a caption",
    "sub/labels.JSON": b"{}",
    "a.xml": b"<annotation/>",
    "list.csv": b"path,label\n",
    "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(40),
    "sub/.DS_Store": b"\x00\x00\x00\x01Bud1",
    "desktop.ini": b"[.ShellClassInfo]",
    ".hidden.png": _image("PNG"),
    ".cache/x.png": _image("PNG"),
    "__MACOSX/._a.png": bytes(30),
    "__MACOSX/b.png": _image("PNG"),
}
IMAGES = {
    "a.png": _image("PNG", 1),
    "no_ending": _image("JPEG", 2),
    "wrong.doc": _image("PNG", 3),
    "caption.txt": _image("WEBP", 4),
    "sub/data.json": _image("TIFF", 5),
    "dots.in.name.": _image("BMP", 6),
}
EXPECTED = {
    ".csv": 1, ".json": 1, ".txt": 1, ".xml": 1, ".DS_Store": 1, "Thumbs.db": 1, "desktop.ini": 1, "hidden": 2,
    "__MACOSX": 2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in (BESIDE | IMAGES).items():
        (tmp_path / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pool" / name).write_bytes(data)
    return tmp_path / "pool"


def test_a_folder(folder: Path) -> None:
    skipped: Counter[str] = Counter()
    assert [item.path for item in list_items(str(folder), skipped=skipped)] == sorted(IMAGES)
    assert skipped == EXPECTED


def test_a_tar_is_as_a_folder(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(folder).as_posix())
    skipped: Counter[str] = Counter()
    assert [item.path for item in list_items(str(tmp_path / "a.tar"), skipped=skipped)] == sorted(IMAGES)
    assert skipped == EXPECTED


def test_the_scans_handle_counts_them(folder: Path, tmp_path: Path) -> None:
    execution = ExecutionConfig(executor="inline")
    made = scan(
        {"pool": [str(folder)]}, ScanConfig(), folder=tmp_path / "scan", work=tmp_path / "w", execution=execution
    )
    assert made.skipped == EXPECTED
    assert (made.groups, made.quarantined) == ({"pool": len(IMAGES)}, {})


def test_labelled_folders_too(tmp_path: Path) -> None:
    for name in ("train/cats/a.png", "train/dogs/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(_image("PNG"))
    (tmp_path / "train/cats/Thumbs.db").write_bytes(b"no image")
    (tmp_path / "train/cats/a.txt").write_text("a cat")
    assert [path.name for path in find_labelled(tmp_path, "train").paths] == ["a.png", "b.png"]
