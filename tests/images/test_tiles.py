"""Tiles of large images: cut where it is said, read in windows, named so that they are found again."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.errors import ConfigError, InputError
from dinomill.images import tiff, windows
from dinomill.images.cut import orient
from dinomill.images.decode import decode_image
from dinomill.images.decode_error import DecodeError
from dinomill.images.listing import TILE, Item, list_items, read_item, split_tiles
from dinomill.images.tiles import Tile, TileConfig, compressed, encode_tile
from dinomill.images.windows import open_windows

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def photograph() -> Array:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:300, :340])


def _values(photograph: Array) -> dict[str, Array]:
    grey = photograph[..., 0]
    return {
        "colour": photograph,
        "grey": grey,
        "16 bits": grey.astype(np.uint16) * 257,
        "floats": grey.astype(np.float32) / 255,
        "16 bits, colour": photograph.astype(np.uint16) * 257,
    }


LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (64, 96)},
    "tiles, lzw": {"tile": (64, 64), "compression": "lzw", "predictor": True},
    "tiles, jpeg": {"tile": (64, 64), "compression": "jpeg"},
    "strips": {"rowsperstrip": 7},
    "strips, deflate": {"rowsperstrip": 16, "compression": "deflate"},
    "one strip": {},
    "one strip, lzw": {"compression": "lzw"},
    "planes": {"planarconfig": "separate", "tile": (64, 64)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 5, "compression": "deflate"},
    "BigTIFF": {"bigtiff": True, "tile": (128, 128), "compression": "deflate"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", ["colour", "grey", "16 bits", "floats", "16 bits, colour"])
def test_a_window_is_what_the_whole_picture_holds_there(
    tmp_path: Path, photograph: Array, values: str, layout: str
) -> None:
    stored, options = _values(photograph)[values], dict(LAYOUTS[layout])
    if (options.get("compression") == "jpeg" and stored.dtype != np.uint8) or (layout == "planes" and stored.ndim == 2):
        pytest.skip("no such file")
    file = tmp_path / "picture.tif"
    whole = stored.transpose(2, 0, 1) if layout == "planes" else stored
    writing = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    with tifffile.TiffWriter(file, **writing) as writer:
        writer.write(whole, photometric="rgb" if stored.ndim == 3 else "minisblack", **options)
    expected = tifffile.imread(file)
    expected = expected.transpose(1, 2, 0) if layout == "planes" else expected
    picture = open_windows(file)
    picture.require_room(100)
    assert (picture.width, picture.height) == (340, 300)
    for x, y in ((0, 0), (61, 33), (240, 200)):
        found = picture.read(x, y, 100, 100)
        assert found.dtype == stored.dtype
        assert np.array_equal(found, expected[y : y + 100, x : x + 100])


def test_a_pyramid_is_cut_at_the_level_that_is_asked_for(tmp_path: Path, photograph: Array) -> None:
    file = tmp_path / "slide.tif"
    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        writer.write(photograph, subifds=1, tile=(64, 64), photometric="rgb", compression="deflate")
        writer.write(photograph[::2, ::2], subfiletype=1, tile=(64, 64), photometric="rgb", compression="deflate")
    whole, half = open_windows(file), open_windows(file, level=1)
    assert (whole.width, whole.height, half.width, half.height) == (340, 300, 170, 150)
    assert np.array_equal(half.read(10, 20, 30, 30), photograph[::2, ::2][20:50, 10:40])
    with pytest.raises(DecodeError, match="2 levels"):
        open_windows(file, level=2)


def test_channels_in_pages_and_the_first_of_a_stack(tmp_path: Path, photograph: Array) -> None:
    channels = np.stack([photograph[..., number % 3] + number for number in range(5)])
    tifffile.imwrite(tmp_path / "channels.ome.tif", channels, metadata={"axes": "CYX"}, compression="lzw")
    found = open_windows(tmp_path / "channels.ome.tif").read(7, 9, 20, 20)
    assert np.array_equal(found, channels[:, 9:29, 7:27].transpose(1, 2, 0))
    tifffile.imwrite(
        tmp_path / "stack.tif", channels, photometric="minisblack", metadata={"axes": "ZYX"}, tile=(64, 64)
    )
    assert np.array_equal(open_windows(tmp_path / "stack.tif").read(7, 9, 20, 20), channels[0, 9:29, 7:27])


def test_meaning_of_the_stored_numbers(tmp_path: Path, photograph: Array) -> None:
    grey = photograph[..., 0]
    tifffile.imwrite(tmp_path / "white.tif", grey, photometric="miniswhite", tile=(64, 64))
    assert np.array_equal(open_windows(tmp_path / "white.tif").read(0, 0, 64, 64), 255 - grey[:64, :64])
    clear = np.dstack([photograph, np.full(grey.shape, 0, np.uint8)])
    tifffile.imwrite(tmp_path / "clear.tif", clear, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64))
    assert (open_windows(tmp_path / "clear.tif").read(0, 0, 64, 64) == 255).all()
    Image.fromarray(photograph).quantize(200).save(tmp_path / "colours.tif")
    shown = np.asarray(Image.open(tmp_path / "colours.tif").convert("RGB"))
    assert np.array_equal(open_windows(tmp_path / "colours.tif").read(30, 40, 50, 50), shown[40:90, 30:80])


@pytest.mark.parametrize("ending", ["png", "jpg", "npy"])
def test_other_formats_are_cut_as_well(tmp_path: Path, photograph: Array, ending: str) -> None:
    file = tmp_path / f"picture.{ending}"
    if ending == "npy":
        np.save(file, photograph)
    else:
        Image.fromarray(photograph).save(file)
    expected = decode_image(file.read_bytes())
    assert np.array_equal(open_windows(file).read(11, 13, 32, 32), expected[13:45, 11:43])


def test_what_would_not_fit_into_memory_is_refused_with_advice(
    tmp_path: Path, photograph: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "PIECES_BYTES", 200_000)
    Image.fromarray(photograph).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", photograph, compression="lzw", rowsperstrip=300)
    tifffile.imwrite(tmp_path / "c.tif", photograph, compression="lzw", tile=(64, 64))
    items = list_items(str(tmp_path), TileConfig(side=64))
    bad = {item.path: item.detail for item in items if item.fault}
    assert set(bad) == {"a.png", "b.tif"}
    assert all("tiled TIFF" in detail for detail in bad.values())
    assert sum(item.offset == TILE for item in items) == 20


def test_where_tiles_lie() -> None:
    assert TileConfig(side=32).starts(100) == [0, 32, 64]
    assert TileConfig(side=32, border="shift").starts(100) == [0, 32, 64, 68]
    assert TileConfig(side=32, stride=16).starts(64) == [0, 16, 32]
    assert TileConfig(side=32, stride=40).starts(100) == [0, 40]
    assert TileConfig(side=32, border="shift").starts(96) == [0, 32, 64]
    assert list(TileConfig(side=32, border="shift").places(31, 64)) == []
    assert list(TileConfig(side=32).places(64, 64)) == [(0, 0), (32, 0), (0, 32), (32, 32)]


def test_a_tiles_name_says_where_it_lies() -> None:
    for tile in (Tile("a/b.tif", 5, 1_200_300, 32), Tile("odd#y000001-x000002-s3.tif", 0, 0, 64, level=2)):
        assert Tile.of(tile.name) == tile
    assert Tile("a.tif", 64, 32, 32).name == "a.tif#y000032-x000064-s32"


def test_items_are_tiles_in_reading_order(tmp_path: Path, photograph: Array) -> None:
    (tmp_path / "sub").mkdir()
    tifffile.imwrite(tmp_path / "sub" / "p.tif", photograph, tile=(64, 64), photometric="rgb")
    Image.fromarray(photograph[:20, :20]).save(tmp_path / "small.png")
    (tmp_path / "notes").write_text("nothing to see")
    (tmp_path / "broken.tif").write_bytes(b"II*\x00" + bytes(50))
    items = list_items(str(tmp_path), TileConfig(side=100))
    assert {item.path: item.fault for item in items if item.fault} == {
        "broken.tif": "corrupt", "notes": "not_an_image", "small.png": "too_small"
    }  # fmt: skip
    tiles = [item for item in items if not item.fault]
    places = [(x, y) for y in (0, 100, 200) for x in (0, 100, 200)]
    assert [item.path for item in tiles] == [Tile("sub/p.tif", x, y, 100).name for x, y in places]
    for item, (x, y) in zip(tiles, places, strict=True):
        data = read_item(str(tmp_path), item)
        assert data == read_item(str(tmp_path), Item(item.path, 0, "", TILE)), "a tile's name is enough"
        assert np.array_equal(decode_image(data), photograph[y : y + 100, x : x + 100])
    whole = sum(item.size for item in tiles)
    assert abs(whole - (tmp_path / "sub" / "p.tif").stat().st_size) < 9


def test_a_source_may_be_one_picture_or_a_manifest_of_them(tmp_path: Path, photograph: Array) -> None:
    tifffile.imwrite(tmp_path / "p.tif", photograph, photometric="rgb")
    (tmp_path / "m.csv").write_text("path\np.tif\n")
    for source in ("p.tif", "m.csv"):
        (first, *_) = list_items(str(tmp_path / source), TileConfig(side=64))
        assert first.path == "p.tif#y000000-x000000-s64"
        assert np.array_equal(decode_image(read_item(str(tmp_path / source), first)), photograph[:64, :64])


@pytest.mark.parametrize("source", ["a.tar", "s3://bucket/prefix"])
def test_what_cannot_be_read_in_windows_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="cannot be cut into tiles") as caught:
        list_items(source, TileConfig(side=64))
    assert "disk" in str(caught.value.action)


def test_a_tile_is_an_image_file_with_the_same_bytes_each_time(photograph: Array) -> None:
    stored = _values(photograph)
    for name, ending in (
        ("colour", b"\x89PNG"),
        ("grey", b"\x89PNG"),
        ("16 bits", b"\x89PNG"),
        ("floats", b"\x93NUMPY"),
    ):
        pixels = stored[name][:50, :70]
        data = encode_tile(pixels)
        assert data[: len(ending)] == ending
        assert data == encode_tile(pixels.copy(order="F"))
        kept = compressed(data)
        if ending == b"\x89PNG":
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), pixels)
            assert len(kept) < 0.95 * len(data)
        else:
            assert np.array_equal(np.load(io.BytesIO(kept)), pixels)
    large = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)  # more than one block of deflate
    assert np.array_equal(decode_image(encode_tile(large)), large)


def test_a_damaged_piece_is_said_of_its_tiles_alone(tmp_path: Path, photograph: Array) -> None:
    file = tmp_path / "p.tif"
    tifffile.imwrite(file, photograph, tile=(64, 64), compression="deflate", photometric="rgb")
    with tifffile.TiffFile(file) as opened:
        start, length = opened.pages[0].dataoffsets[0], opened.pages[0].databytecounts[0]
    data = bytearray(file.read_bytes())
    data[start : start + length] = bytes(length)
    file.write_bytes(data)
    items = list_items(str(tmp_path), TileConfig(side=64))
    with pytest.raises(DecodeError) as caught:
        read_item(str(tmp_path), items[0])
    assert caught.value.reason == "corrupt"
    assert np.array_equal(decode_image(read_item(str(tmp_path), items[1])), photograph[:64, 64:128])


def test_windows_take_no_more_memory_than_their_pieces(tmp_path: Path) -> None:
    side = 4_000
    file = tmp_path / "large.tif"
    rows = np.random.default_rng(0).integers(0, 256, (side, 1, 3), dtype=np.uint8)
    tifffile.imwrite(
        file, np.broadcast_to(rows, (side, side, 3)), rowsperstrip=16, compression="deflate", photometric="rgb"
    )
    windows._opened.cache_clear()
    tracemalloc.start()
    try:
        tiles = list_items(str(tmp_path), TileConfig(side=200))
        for item in tiles[:60]:
            read_item(str(tmp_path), item)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        windows._opened.cache_clear()
    assert peak < 0.25 * side * side * 3, f"{peak / 1e6:.0f} MB of {side * side * 3 / 1e6:.0f}"


def test_entries_of_the_pool() -> None:
    entry = {"path": "scenes", "tiles": {"side": 32}}
    assert split_tiles(["photos", entry]) == (["photos", "scenes"], {"scenes": TileConfig(side=32)})
    assert split_tiles([{"path": "photos"}]) == (["photos"], {})
    with pytest.raises(ConfigError, match=r"pool.1.tiles.*did you mean 'stride'"):
        split_tiles(["a", {"path": "b", "tiles": {"side": 32, "strides": 3}}])
    with pytest.raises(ConfigError, match=r"side / 16"):
        split_tiles([{"path": "b", "tiles": {"side": 32, "stride": 1}}])
    with pytest.raises(ConfigError, match="names scenes twice"):
        split_tiles(["scenes", entry])


def test_an_array_by_columns_is_cut_like_one_by_rows(tmp_path: Path) -> None:
    """Tiles of `a.T` were scrambled: its file holds columns."""
    values = np.random.default_rng(0).integers(0, 256, (96, 64), dtype=np.uint8)
    np.save(tmp_path / "columns.npy", np.asfortranarray(values))
    np.save(tmp_path / "rows.npy", values)
    for name in ("columns.npy", "rows.npy"):
        assert (open_windows(tmp_path / name, 0).read(32, 64, 32, 32) == values[64:, 32:]).all(), name


@pytest.mark.parametrize("kept", [100, 60_000])
def test_a_picture_that_ends_too_soon_is_named(tmp_path: Path, kept: int) -> None:
    """A copy that was broken off ended the run with a traceback of the memory map."""
    tifffile.imwrite(tmp_path / "whole.tif", np.zeros((200, 200, 3), dtype=np.uint8), photometric="rgb")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:kept])
    with pytest.raises(DecodeError):
        open_windows(tmp_path / "cut.tif", 0).read(0, 0, 32, 32)


def test_damaged_tags_are_damage(tmp_path: Path) -> None:
    """Bytes of the header in turn: what cannot be read is said to be damaged, and nothing else is raised."""
    values = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "whole.tif", values, tile=(32, 32), compression="zlib")
    whole = (tmp_path / "whole.tif").read_bytes()
    refused, right = 0, 0
    for place in range(4, min(len(whole), 300), 3):
        for value in (0, 255):
            damaged = tmp_path / f"{place}-{value}.tif"
            damaged.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                picture = open_windows(damaged, 0)
                picture.require_room(32)
                right += np.array_equal(picture.read(0, 0, 32, 32), values[:32, :32])
            except (DecodeError, OSError):
                refused += 1
    assert refused > 20 and right > 20, "bytes that decide are damage, others change nothing"


def test_two_spellings_of_one_place_are_one() -> None:
    with pytest.raises(ConfigError, match="twice"):
        split_tiles(["pictures", {"path": "./pictures/", "tiles": {"side": 32}}])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "layout", [{"tile": (64, 32)}, {"rowsperstrip": 16}, {"tile": (64, 32), "planarconfig": "separate"}]
)
def test_a_turned_picture_is_cut_as_it_is_seen(
    tmp_path: Path, photograph: Array, orientation: int, layout: dict[str, Any]
) -> None:
    """The tiles were turned one by one, at the places of the picture that was not."""
    path, tag = tmp_path / "turned.tif", [(274, "H", 1, orientation, False)]
    stored = photograph[:230, :340]
    if layout.get("planarconfig"):
        stored = stored.transpose(2, 0, 1)
    tifffile.imwrite(path, stored, photometric="rgb", compression="deflate", extratags=tag, **layout)
    upright = orient(photograph[:230, :340], orientation)
    picture = open_windows(path)
    assert (picture.height, picture.width) == upright.shape[:2]
    picture.require_room(50)
    for x, y, width, height in ((0, 0, 50, 50), (37, 101, 50, 40), (picture.width - 50, picture.height - 41, 50, 41)):
        assert np.array_equal(picture.read(x, y, width, height), upright[y : y + height, x : x + width])
    names = [item.path for item in list_items(str(tmp_path), TileConfig(side=50))]
    assert len(names) == (picture.width // 50) * (picture.height // 50)
    tile = Tile.of(names[-1])
    cut = decode_image(read_item(str(tmp_path), Item(names[-1], 1, "", TILE)))
    assert np.array_equal(cut, upright[tile.y : tile.y + 50, tile.x : tile.x + 50])
