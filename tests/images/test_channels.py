"""Grey becomes colour and colour grey, wherever a network meets images of the other kind, and it is said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.images.channels import channels_of, conversion, kind_of_files, with_channels
from dinomill.images.decode import decode_image


def encoded(mode: str, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [("L", "PNG", 1), ("1", "PNG", 1), ("LA", "PNG", 1), ("L", "JPEG", 1), ("RGB", "PNG", 3), ("CMYK", "JPEG", 3)],
)
def test_a_header_tells_grey_from_colour(mode: str, kind: str, channels: int) -> None:
    assert channels_of(encoded(mode, kind)) == channels


def test_what_a_header_does_not_tell(tmp_path: Path) -> None:
    assert channels_of(encoded("P")) is None  # a palette may be one of greys
    assert channels_of(b"no image") is None
    files = [tmp_path / f"{number}.png" for number in range(40)]
    for file in files:
        file.write_bytes(encoded("L"))
    assert kind_of_files(files) == 1
    files[-1].write_bytes(encoded("RGB"))
    assert kind_of_files(files) is None
    assert kind_of_files([]) is None
    assert kind_of_files([tmp_path / "nowhere.png", files[0]]) == 1


def test_files_and_arrays_are_converted_alike() -> None:
    for mode, channels in (("L", 3), ("RGB", 1)):
        data, own = encoded(mode), 1 if mode == "L" else 3
        converted = with_channels(decode_image(data, channels=own), channels)
        assert np.array_equal(converted, decode_image(data, channels=channels))
    assert conversion(1, 3, "photos", "vit.pth") == (
        "The images of photos are grey, and vit.pth takes colour: their grey is repeated into three channels."
    )
