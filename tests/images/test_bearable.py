from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.images.array_files import read_tiff
from dinomill.images.decode import decode_image, probe_image
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.images.tiff_bytes import tiff_pages
from tests.images import hostile

CONFIG = PreprocessingConfig.square(28, (0.5,) * 3, (0.25,) * 3)
_SECONDS = 6.0  # each took from 10 to 140, or gigabytes

COSTLY = {
    "CMYK in 3,000 scans": (hostile.jpeg_of_scans("CMYK", 2000, 3000), "scans go over 4,000,000 pixels"),
    "colour in 3,000 scans": (hostile.jpeg_of_scans("RGB", 2000, 3000), "scans go over"),
    "grey in 3,000 scans": (hostile.jpeg_of_scans("L", 2000, 3000), "scans go over"),
    "colour in legal scans": (hostile.jpeg_of_legal_scans(2000), "scans go over"),
    "JPEG 2000 of 65,535 layers": (hostile.with_layers(hostile.jpeg2000(2000, 64), 65_535), "packets"),
    "JPEG 2000 of small precincts": (hostile.with_precincts(hostile.jpeg2000(4000), 0x22), "precincts"),
    "JPEG 2000 of small blocks": (hostile.with_small_blocks(hostile.jpeg2000(4000)), "code blocks"),
    "JPEG 2000 behind another style": (
        hostile.with_precincts(hostile.jpeg2000(4000), 0x22).replace(
            b"\xff\x52", b"\xff\x64\x00\x0a\x00\x01\xff\x52\x00\x0c\x00\x00\xff\x52", 1
        ),
        "JPEG 2000 of",
    ),
    "BMP in runs": (hostile.bmp_in_runs(6300, 6300), "in runs"),
    "BMP in runs, one row": (hostile.bmp_in_runs(39_000_000, 1), "in runs"),
    "icon in runs": (hostile.icon_in_runs(4400), "in runs"),
    "Mac icon of layers": (hostile.icns_of(hostile.with_layers(hostile.jpeg2000(2000, 64), 65_535)), "packets"),
    "Mac icon of small precincts": (hostile.icns_of(hostile.with_precincts(hostile.jpeg2000(4000), 0x22)), "precincts"),
    "PNM of comments": (hostile.text_of_comments(1_000_000), "comments"),
    "TIFF whose strips are one": (hostile.tiff_of_one_strip(900_000, 1), "strips or tiles"),
    "JPEG of a million comments, CMYK": (
        hostile.jpeg_of_scans("CMYK", 64, 0).replace(b"\xff\xd8", b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000, 1),
        "segments",
    ),
    "JPEG of much filling": (hostile.jpeg_of_segments(b"\xff", 1_000_000), "between segments"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_files_that_cost_more_than_their_pixels_are_refused_before_they_are_decoded(name: str) -> None:
    data, words = COSTLY[name]
    began = time.thread_time()
    for given in (data, memoryview(data)):
        with pytest.raises(DecodeError, match=words) as caught:
            decode_image(given)
        assert caught.value.reason is Reason.DECOMPRESSION_BOMB
    with pytest.raises(DecodeError, match=words):
        preprocess_bytes(data, CONFIG, max_pixels=40_000_000)
    assert time.thread_time() - began < _SECONDS


@pytest.mark.parametrize("name", [name for name in COSTLY if not name.startswith("TIFF")])  # whose tags say it later
def test_curation_finds_them_by_their_header(name: str) -> None:
    data, words = COSTLY[name]
    with pytest.raises(DecodeError, match=words):
        probe_image(data)


def test_a_png_of_very_many_chunks_is_refused() -> None:
    import struct
    import zlib

    chunk = b"\0\0\0\0aaAa" + struct.pack(">I", zlib.crc32(b"aaAa"))
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, "PNG")
    data = out.getvalue()
    with pytest.raises(DecodeError, match="100,000 chunks") as caught:
        decode_image(data[:33] + chunk * 200_000 + data[33:])
    assert caught.value.reason is Reason.DECOMPRESSION_BOMB
    assert decode_image(data[:33] + chunk * 2000 + data[33:]).shape == (9, 9, 3)


@pytest.mark.parametrize("channels", [4, 5])
def test_channels_in_very_many_tiles_are_refused(channels: int) -> None:
    strips = hostile.tiff_of_one_strip(900_000, 1)
    with pytest.raises(DecodeError, match="strips or tiles"):
        decode_image(strips, channels=channels)
    out = io.BytesIO()
    many = np.random.default_rng(0).integers(0, 255, (64, 64, channels), np.uint8)
    tifffile.imwrite(out, many, photometric="minisblack", planarconfig="contig", tile=(16, 16), compression="zlib")
    assert np.array_equal(read_tiff(out.getvalue(), 10_000), many)


def test_pages_of_a_tiff_are_counted_in_a_moment() -> None:
    data = hostile.tiff_of_pages(60_000)
    began = time.thread_time()
    assert probe_image(data).frames == 60_000
    assert time.thread_time() - began < _SECONDS
    for order in ("<", ">"):
        for big in (False, True):
            out = io.BytesIO()
            with tifffile.TiffWriter(out, byteorder=order, bigtiff=big) as writer:
                for _ in range(5):
                    writer.write(np.zeros((8, 8), np.uint8), contiguous=False, metadata=None)
            assert tiff_pages(out.getvalue()) == 5
    assert probe_image(hostile.tiff_of_pages(5)).frames == 5
    assert tiff_pages(b"II*\0") == tiff_pages(data[:9]) == 1
    one = hostile.tiff_of_pages(1)
    assert tiff_pages(one[:-5] + one[4:8] + one[-1:]) == 1  # a chain that goes round


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("side", [40, 2000])
def test_scans_that_programs_write_are_read(mode: str, side: int) -> None:
    plain, twice = hostile.jpeg_of_scans(mode, side, 0), hostile.jpeg_of_scans(mode, side, 3)
    assert decode_image(plain).shape == (side, side, 3)
    if mode == "CMYK":
        assert np.array_equal(decode_image(plain), decode_image(twice))


def test_a_small_picture_in_many_legal_scans_is_read() -> None:
    assert decode_image(hostile.jpeg_of_legal_scans(64)).shape == (64, 64, 3)


def test_what_looks_like_scans_in_metadata_and_behind_the_end_does_not_count() -> None:
    out = io.BytesIO()
    Image.new("RGB", (2000, 2000), (200, 10, 10)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    like = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
    kept = data[:2] + (b"\xff\xe5\xff\x00" + (like * 5000)[: 0xFF00 - 2]) + data[2:] + like * 5000
    assert np.array_equal(decode_image(kept), decode_image(data))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile_size": (256, 256)},
        {"codeblock_size": (32, 32)},
        {"precinct_size": (128, 128)},
        {"quality_layers": [40, 20, 10]},
        {"num_resolutions": 1},
        {"irreversible": True, "no_jp2": True},
    ],
)
def test_jpeg_2000_as_programs_write_it_is_read(options: dict[str, object]) -> None:
    out = io.BytesIO()
    Image.new("RGB", (1500, 1200), (90, 40, 20)).save(out, "JPEG2000", **options)
    assert decode_image(out.getvalue()).shape == (1200, 1500, 3)


def test_bmp_in_runs_and_icons_are_read() -> None:
    assert decode_image(hostile.bmp_in_runs(300, 200)).shape == (200, 300, 3)
    out = io.BytesIO()
    Image.new("RGBA", (64, 64), (9, 9, 9, 255)).save(out, "ICO")
    assert decode_image(out.getvalue()).shape == (64, 64, 3)


def _picture(kind: str, side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (side, side), (9, 9, 9, 255)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    "within",
    [
        lambda side: hostile.icns_of(_picture("PNG", side)),
        lambda side: hostile.icns_of(_picture("JPEG2000", side), b"icp4"),
        lambda side: hostile.icns_of(hostile.jpeg2000(side)),
        lambda side: hostile.ico_of(_picture("PNG", side)),
        lambda side: hostile.ico_of(hostile.bmp_in_runs(side, 2 * side)[14:]),
    ],
)
def test_a_picture_within_an_icon_counts_as_large_as_it_is(within: Callable[[int], bytes]) -> None:
    for read in (decode_image, probe_image):
        with pytest.raises(DecodeError, match="1,100×1,100 pixels within an icon") as caught:
            read(within(1100), max_pixels=1_100_000)
        assert caught.value.reason is Reason.DECOMPRESSION_BOMB


@pytest.mark.parametrize("kind", ["PNG", "JPEG2000"])
def test_mac_icons_are_read(kind: str) -> None:
    assert decode_image(hostile.icns_of(_picture(kind, 128), b"ic07")).shape == (128, 128, 3)


def test_an_icon_that_is_cut_or_holds_itself_is_called_damaged() -> None:
    cut, within_itself = b"\0\0\1\0\1" + bytes(4), b"\0\0\1\0\1" + bytes(100)
    for read in (decode_image, probe_image):
        with pytest.raises(DecodeError) as caught:
            read(cut)
        assert caught.value.reason is Reason.TRUNCATED
        with pytest.raises(DecodeError):
            read(within_itself)
