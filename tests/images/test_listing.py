"""Folders, tars and manifests, friendly and hostile: nothing crashes, nothing escapes, everything is in the ledger."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinomill.curation.config import CurationConfig
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.curation.scan.tables import read_files
from dinomill.errors import InputError
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.listing import list_items, read_item

Configure = Callable[..., CurationConfig]


def _png(value: int = 0, side: int = 24) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _scan(source: Path, room: Path, **settings: Any) -> list[dict[str, Any]]:
    handle = scan(
        {"pool": [str(source)]},
        ScanConfig.model_validate({"max_bad_fraction": 1.0} | settings),
        folder=room / "scan",
        work=room / "work",
        execution=ExecutionConfig(executor="inline"),
    )
    return read_files(handle).to_pylist()


def _tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_tar_is_read_in_place(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", [(tarfile.TarInfo(f"{n}.png"), _png(n)) for n in range(5)])
    items = list_items(str(tmp_path / "a.tar"))
    assert [item.path for item in items] == [f"{n}.png" for n in range(5)]
    assert [read_item(str(tmp_path / "a.tar"), item) for item in items] == [_png(n) for n in range(5)]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_manifest_names_files_and_what_is_missing_is_written_down(tmp_path: Path, ending: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(_png(1))
    names = ["images/a.png", "images/gone.png"]
    manifest = tmp_path / f"m.{ending}"
    if ending == "csv":
        manifest.write_text("label,path\n" + "".join(f"x,{name}\n" for name in names))
    else:
        pq.write_table(pa.table({"path": names}), manifest)
    rows = {row["path"]: row for row in _scan(manifest, tmp_path / "out")}
    assert rows["images/a.png"]["reason"] is None
    assert rows["images/gone.png"]["reason"] == "missing"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", b"path,path\na.png,b.png\n", "has the column 'path' 2 times"),
        ("m.csv", b"\xff\xfe" + "path\na.png\n".encode("utf-16-le"), "cannot be read as a table|no column of paths"),
        ("m.csv", b"path,label\na.png\n", "cannot be read as a table"),
        ("m.csv", b"", "cannot be read as a table"),
        ("m.parquet", b"PAR1 cut off", "cannot be read as a table"),
    ],
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        list(list_items(str(tmp_path / name)))


def test_files_may_be_called_as_numbers_and_as_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path\n007\nNA\n")
    assert [item.path for item in list_items(str(tmp_path / "m.csv"))] == ["007", "NA"]


def test_a_manifest_without_paths_says_which_columns_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="no column of paths") as caught:
        list_items(str(tmp_path / "m.parquet"))
    assert "url" in str(caught.value)


def test_path_tricks_in_a_tar_never_touch_the_disk(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device.png")
    device.type = tarfile.CHRTYPE
    members = [
        (tarfile.TarInfo("../escaped.png"), _png(1)),
        (tarfile.TarInfo("/absolute.png"), _png(2)),
        (tarfile.TarInfo("a/../../b.png"), _png(3)),
        (tarfile.TarInfo("good.png"), _png(4)),
        (tarfile.TarInfo("good.png"), _png(5)),
        (link, b""),
        (device, b""),
    ]
    (tmp_path / "in").mkdir()
    _tar(tmp_path / "in" / "t.tar", members)
    before = set(tmp_path.rglob("*"))
    rows = _scan(tmp_path / "in" / "t.tar", tmp_path / "out")
    reasons = Counter(row["reason"] for row in rows)
    assert reasons == {"unsafe_path": 3, None: 1, "repeated_name": 1, "not_a_file": 2}
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)


def test_a_tar_full_of_traps_is_read_in_place(tmp_path: Path) -> None:
    """Every kind of member and of name, with good and bad pictures: all in the ledger, nothing on the disk."""
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
    climbing = ["../../{n}.png", "/tmp/{n}.png", "a/../../{n}.png", "/../{n}.png"]
    good = ["deep/{n}/" + "x/" * 60 + "{n}.png", "new\nline {n}.png", "日本 {n}.png", "-rf {n}.png", "a\\..\\{n}.png"]
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    for number in range(120):
        name = (climbing + good)[number % 9].format(n=number)
        member = tarfile.TarInfo(name)
        data = [_png(number), b"", _bomb(), _png(number)[:50]][number % 4]
        if number % 6 == 5:
            member.type, member.linkname, data = kinds[number // 6 % 6], "/etc/passwd", b""
        members.append((member, data))
    (tmp_path / "in").mkdir()
    _tar(tmp_path / "in" / "traps.tar", members)
    before = set(tmp_path.rglob("*"))
    rows = _scan(tmp_path / "in" / "traps.tar", tmp_path / "out")
    assert len(rows) == len(members)
    reasons = Counter(row["reason"] for row in rows)
    assert set(reasons) <= {
        None,
        "unsafe_path",
        "not_a_file",
        "empty",
        "decompression_bomb",
        "truncated",
        "not_an_image",
    }
    assert reasons["unsafe_path"] >= 40 and reasons["not_a_file"] >= 15 and reasons[None] >= 5
    usable = [row["path"] for row in rows if row["reason"] is None]
    assert not any(path.startswith("/") or ".." in path.split("/") for path in usable)
    assert all(path.is_relative_to(tmp_path / "out") for path in set(tmp_path.rglob("*")) - before)


def test_every_kind_of_picture_is_looked_at_as_it_is_seen(tmp_path: Path) -> None:
    """16 bits, grey, palette, transparency, CMYK, rotation, animation: the same picture, whatever holds it."""
    from skimage import data

    colour = Image.fromarray(data.coffee()).resize((90, 60))
    grey = colour.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    upside = Image.Exif()
    upside[0x0112] = 8
    turned = colour.transpose(Image.Transpose.ROTATE_270)  # EXIF 8: turn it back by 270 degrees clockwise
    alpha = colour.copy()
    alpha.putalpha(Image.new("L", colour.size, 255))
    blank = Image.new("RGBA", colour.size, (0, 0, 0, 0))  # black, and transparent: white when it is seen
    frames = [colour, Image.new("RGB", colour.size)]
    pool = tmp_path / "pool"
    pool.mkdir()
    colour.save(pool / "plain.png")
    grey.save(pool / "grey.png")
    sixteen.save(pool / "sixteen.png")
    sixteen.save(pool / "sixteen.tif")
    colour.quantize(256).save(pool / "palette.png")
    alpha.save(pool / "alpha.png")
    blank.save(pool / "blank.png")
    colour.convert("CMYK").save(pool / "cmyk.jpg", quality=95)
    turned.save(pool / "turned.jpg", quality=95, exif=upside)
    grey.convert("1").save(pool / "one_bit.png")
    frames[0].save(pool / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(pool / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(pool / "moving.png", save_all=True, append_images=frames[1:])
    rows = {row["path"]: row for row in _scan(pool, tmp_path / "out")}
    assert {row["reason"] for row in rows.values()} == {None}
    assert {(row["width"], row["height"]) for row in rows.values()} == {(90, 60)}
    brightness = {name: row["brightness"] for name, row in rows.items()}
    assert brightness.pop("blank.png") == pytest.approx(1)
    assert brightness == pytest.approx(dict.fromkeys(brightness, brightness["plain.png"]), abs=0.02)
    assert {name for name, row in rows.items() if row["channels"] == 1} == {
        *("grey.png", "sixteen.png", "sixteen.tif", "one_bit.png", "blank.png")
    }
    assert {name: row["frames"] for name, row in rows.items() if row["frames"] > 1} == {
        "moving.gif": 2,
        "moving.webp": 2,
        "moving.png": 2,
    }
    modes = {"sixteen.png": "I;16", "palette.png": "P", "alpha.png": "RGBA", "cmyk.jpg": "CMYK", "one_bit.png": "1"}
    assert {name: rows[name]["mode"] for name in modes} == modes
    look = {name: row["phash"] for name, row in rows.items()}
    near = [name for name in look if bin(look[name] ^ look["plain.png"]).count("1") <= 6]
    assert set(look) - set(near) <= {"blank.png", "one_bit.png"}


def _bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def _hostile(root: Path) -> int:
    """500 entries that a careless reader dies of; returns how many there are."""
    root.mkdir()
    generator = np.random.default_rng(0)
    good = _png(1, 64)
    jpeg = io.BytesIO()
    Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(jpeg, "JPEG")
    makers: list[Callable[[int], bytes]] = [
        lambda n: b"",
        lambda n: _bomb(),
        lambda n: good[: 40 + 7 * n],
        lambda n: jpeg.getvalue()[: 30 + 5 * n],
        lambda n: generator.bytes(50 + n),
        lambda n: b"GIF89a" + generator.bytes(n),
        lambda n: b"%PDF-1.4\n" + generator.bytes(n),
        lambda n: b"PK\x03\x04" + generator.bytes(n),
        lambda n: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        lambda n: b"\x93NUMPY\x01\x00\xff\xff" + generator.bytes(n),
        lambda n: b"II*\x00" + generator.bytes(n),
        lambda n: b"RIFF" + struct.pack("<I", 1 << 31) + b"WEBP" + generator.bytes(n),
    ]
    names = [
        "{n}.jpg",
        "ünï {n}.png",
        "new\nline {n}.png",
        "{n}",
        " {n} .gif",
        "-rf {n}.png",
        "{n}.png.exe",
        "日本{n}.tif",
    ]
    count = 0
    for count in range(1, 491):
        name = names[count % len(names)].format(n=count)
        (root / name).write_bytes(makers[count % len(makers)](count % 20))
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "outside.png").symlink_to("/etc/hostname")
    os.mkfifo(root / "pipe.png")
    (Path(os.fsdecode(os.fsencode(root) + b"/bad\xff\xfe.png"))).write_bytes(good)
    (root / "long.png").write_bytes(_png_of(4000, 9))
    (root / "thin.png").write_bytes(_png_of(1, 500))
    (root / "lies.jpg").write_bytes(good)  # a PNG: usable, whatever it is called
    (root / "good.png").write_bytes(_png(3, 64))
    return count + 10


def _png_of(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 7).save(file, "PNG")
    return file.getvalue()


def test_five_hundred_hostile_files_are_all_in_the_ledger(tmp_path: Path) -> None:
    count = _hostile(tmp_path / "pool")
    before = set(tmp_path.rglob("*"))
    rows = _scan(tmp_path / "pool", tmp_path / "out")
    assert len(rows) == count == 500
    usable = {row["path"] for row in rows if row["reason"] is None}
    assert usable == {"lies.jpg", "good.png"}
    assert all(row["detail"] for row in rows if row["reason"])
    reason = {row["path"]: row["reason"] for row in rows}
    assert reason["loop"] == "link_to_folder"
    assert reason["self"] == reason["dangling.png"] == "broken_link"
    assert reason["outside.png"] == "link_outside"
    assert reason["pipe.png"] == "not_a_file"
    assert reason["long.png"] == "absurd_aspect" and reason["thin.png"] == "too_small"
    assert reason["bad\\xff\\xfe.png"] == "name_not_utf8"
    assert Counter(reason.values())["decompression_bomb"] >= 40
    assert {path for path in set(tmp_path.rglob("*")) - before if not path.is_relative_to(tmp_path / "out")} == set()
    ledger = (tmp_path / "out" / "scan" / "quarantine.csv").read_text()
    assert "new\nline" in ledger


def test_an_unreadable_file_is_in_the_ledger(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as root, _somebody(Path(root)):
        pool = Path(root) / "pool"
        pool.mkdir()
        for number, name in enumerate("ab"):
            (pool / f"{name}.png").write_bytes(_png(number))
        (pool / "a.png").chmod(0)
        rows = {row["path"]: (row["reason"], row["detail"]) for row in _scan(pool, Path(root) / "out")}
    assert rows == {"a.png": ("unreadable", "Permission denied"), "b.png": (None, None)}


@contextmanager
def _somebody(folder: Path) -> Iterator[None]:
    """As a user to whom files can be forbidden, which they cannot be to root."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    os.chown(folder, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)
