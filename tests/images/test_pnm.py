from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from dinomill.images.decode import decode_image
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.pnm import with_common_white


def _pnm(magic: bytes, white: int, side: int = 37, comment: bytes = b"") -> bytes:
    samples = {b"P5": 1, b"P6": 3, b"P0CMYK": 4, b"PyRGBA": 4}[magic]
    values = np.random.default_rng(white).integers(0, white + 1, side * side * samples)
    return (
        b"%b\n%b%d %d\n%d\n" % (magic, comment, side, side, white)
        + values.astype(">u2" if white > 255 else np.uint8).tobytes()
    )


@pytest.mark.parametrize("magic", [b"P5", b"P6", b"P0CMYK", b"PyRGBA"])
@pytest.mark.parametrize("white", [1, 7, 100, 255, 256, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize("comment", [b"", b"# of a camera 1 2 3\n"])
def test_any_white_gives_what_pillow_makes_of_it(magic: bytes, white: int, comment: bytes) -> None:
    data = _pnm(magic, white, comment=comment)
    with Image.open(io.BytesIO(data)) as own, Image.open(io.BytesIO(with_common_white(data))) as ours:
        assert own.mode == ours.mode
        assert np.array_equal(np.asarray(own), np.asarray(ours))


@pytest.mark.parametrize("white", [256, 1023, 65535])
def test_grey_of_16_bits_is_read_as_it_looks(white: int) -> None:
    binary = b"P5 2 2 %d\n" % white + np.array([0, white // 2, white, white], ">u2").tobytes()
    text = b"P2 2 2 %d\n0 %d %d %d\n" % (white, white // 2, white, white)
    for data in (binary, text):
        found = decode_image(data, channels=1).ravel().astype(int)
        assert np.abs(found - [0, 127, 255, 255]).max() <= 1
    assert decode_image(binary).shape == (2, 2, 3)


def test_values_above_white_are_white() -> None:
    data = b"P5 2 1 100\n" + bytes([100, 200])
    assert decode_image(data, channels=1).ravel().tolist() == [255, 255]


def test_a_large_picture_of_12_bits_takes_a_moment() -> None:
    began = time.thread_time()
    decode_image(_pnm(b"P6", 4095, 2500))
    decode_image(_pnm(b"P5", 100, 5000))
    assert time.thread_time() - began < 5  # pixel by pixel it was 25


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_pnm(b"P5", 100)[:-5], Reason.TRUNCATED),
        (_pnm(b"P5", 4095)[:-5], Reason.TRUNCATED),
        (b"P5 12 12", Reason.CORRUPT),
        (b"P5 of ten\n", Reason.CORRUPT),
        (b"Python is a language", Reason.NOT_AN_IMAGE),
        (b"P5of", Reason.NOT_AN_IMAGE),
        (b"P6 1000000 1000000 100\n", Reason.DECOMPRESSION_BOMB),
    ],
)
def test_what_is_wrong_with_a_file_is_said_as_before(data: bytes, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_image(data)
    assert caught.value.reason is reason
