"""Coded pictures as the pieces of a TIFF."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from dinomill.images.array_files import read_tiff
from dinomill.images.coded_pieces import require_piece
from dinomill.images.decode import decode_image
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.windows import open_windows
from tests.images import hostile

CODECS = {"jpeg": 7, "jpeg2000": 34712, "png": 34933, "webp": 50001, "jpegxl": 50002, "lerc": 34887}


def _picture(height: int, width: int) -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=2).astype(np.uint8)


def _tiff(codec: str, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, _picture(200, 180), photometric="rgb", compression=codec, **options)
    return out.getvalue()


def _encode(codec: str, picture: np.ndarray[Any, Any]) -> bytes:
    name = "jpeg2k" if codec == "jpeg2000" else codec
    made: bytes = getattr(imagecodecs, f"{name}_encode")(picture)
    return made


def _with_larger_piece(codec: str, kind: type = np.uint8) -> bytes:
    """A TIFF of one tile of 64 × 64 whose coded picture has 1,000 × 900 pixels."""
    out = io.BytesIO()
    piece = _encode(codec, _picture(900, 1000))
    tifffile.imwrite(
        out,
        iter([piece]),
        shape=(64, 64, 3),
        dtype=kind,
        tile=(64, 64),
        photometric="rgb",
        compression=codec,
    )
    return out.getvalue()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("options", [{"tile": (64, 64)}, {"rowsperstrip": 37}, {}])
def test_pieces_as_programs_write_them_are_read(tmp_path: Path, codec: str, options: dict[str, Any]) -> None:
    data = _tiff(codec, **options)
    found = read_tiff(data, 100_000)
    assert found.shape == (200, 180, 3)
    (tmp_path / "a.tif").write_bytes(data)
    assert np.array_equal(open_windows(tmp_path / "a.tif").read(50, 60, 100, 100), found[60:160, 50:150])


@pytest.mark.parametrize("codec", CODECS)
def test_a_piece_that_is_larger_than_its_tile_is_refused(tmp_path: Path, codec: str) -> None:
    data = _with_larger_piece(codec)
    (tmp_path / "a.tif").write_bytes(data)
    for read in (
        lambda: read_tiff(data, 10_000_000),
        lambda: open_windows(tmp_path / "a.tif").read(0, 0, 64, 64),
        lambda: decode_image(_with_larger_piece(codec, np.uint16)),
    ):
        with pytest.raises(DecodeError, match=r"a piece of the TIFF holds 1,000×900 pixels") as caught:
            read()
        assert caught.value.reason is Reason.DECOMPRESSION_BOMB


@pytest.mark.parametrize("sides", [(8, 8), (64, 64), (256, 128), (300, 200), (513, 513), (9000, 10), (10, 9000)])
@pytest.mark.parametrize("codec", CODECS)
def test_the_size_is_that_of_the_piece(codec: str, sides: tuple[int, int]) -> None:
    data = _encode(codec, _picture(*sides))
    require_piece(data, CODECS[codec], sides[1], sides[0], 3)
    with pytest.raises(DecodeError, match=re.escape(f"holds {sides[1]:,}×{sides[0]:,} pixels")):
        require_piece(data, CODECS[codec], 1, 1, 1) if sides != (8, 8) else require_piece(data, CODECS[codec], 0, 0, 1)


def test_packets_and_scans_of_a_piece_count() -> None:
    with pytest.raises(DecodeError, match="packets"):
        require_piece(hostile.with_layers(hostile.jpeg2000(2000, 64), 65_535), 34712, 2000, 2000, 3)
    with pytest.raises(DecodeError, match="scans"):
        require_piece(hostile.jpeg_of_scans("RGB", 2000, 3000), 7, 2000, 2000, 3)
    many = bytes(imagecodecs.jpeg2k_encode(np.zeros((300, 300, 9), np.uint8), planar=False))
    with pytest.raises(DecodeError, match="holds 300×300"):
        require_piece(many, 34712, 300, 300, 3)


@pytest.mark.parametrize("codec", CODECS)
def test_plain_numbers_that_look_like_a_coded_picture_are_numbers(tmp_path: Path, codec: str) -> None:
    coded = np.frombuffer(_encode(codec, _picture(300, 300)), np.uint8)[:1024]
    stored = np.resize(coded, (32, 32))
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", extratags=[(274, 3, 1, 3, True)])
    assert np.array_equal(open_windows(tmp_path / "a.tif").read(0, 0, 32, 32), stored[::-1, ::-1])
    assert np.array_equal(read_tiff((tmp_path / "a.tif").read_bytes(), 10_000), stored)


def test_a_piece_whose_size_cannot_be_found_is_damaged() -> None:
    for data, compression in (
        (b"\xff\xd8\xff\xd9", 7),
        (b"\xff\x4f\xff\x51" + bytes(60), 34712),
        (b"RIFF1234WEBPVP8Y", 50001),
    ):
        with pytest.raises(DecodeError) as caught:
            require_piece(data, compression, 64, 64, 3)
        assert caught.value.reason is Reason.CORRUPT
    require_piece(b"RIFF1234WEBPVP8Y", 5, 64, 64, 3)
    require_piece(b"any", 50001, 64, 64, 3)  # which no decoder takes for a picture
