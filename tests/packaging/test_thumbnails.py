from __future__ import annotations

import base64
import io

from PIL import Image

from dinomill.packaging.along import thumbnail


def test_it_is_small_upright_and_colourful(photographs: list[bytes]) -> None:
    for image in photographs:
        with Image.open(io.BytesIO(base64.b64decode(thumbnail(image, 64)["thumbnail"]))) as small:
            assert max(small.size) == 64
            assert (small.format, small.mode) == ("JPEG", "RGB")


def test_turned_photographs_are_turned_back() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (200, 100)).save(buffer, "JPEG", exif=exif)
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(buffer.getvalue(), 64)["thumbnail"]))) as small:
        assert small.size == (32, 64)


def test_none_where_none_is_wanted_or_can_be_made(photographs: list[bytes]) -> None:
    assert thumbnail(photographs[0], 0) == {}
    assert thumbnail(b"no picture", 64) == {}
