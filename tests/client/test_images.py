from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.client.images import encoded
from dinomill.errors import InputError
from dinomill.images.decode import decode_image


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph that a phone took on its side: the larger part of it is dark."""
    pixels = np.full((60, 90, 3), 200, np.uint8)
    pixels[:, :50] = 20
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    return tmp_path / "phone.jpg"


def test_an_opened_photograph_stands_as_its_file_does(photo: Path) -> None:
    by_path = decode_image(encoded(photo))
    assert by_path.shape == (90, 60, 3)
    with Image.open(photo) as picture:
        assert np.abs(decode_image(encoded(picture)).astype(int) - by_path).max() <= 3  # of two decoders of JPEG


@pytest.mark.parametrize("kind", ["floats", "16 bits", "16 bits of Motorola", "16 bits of a PNG", "signed"])
def test_numbers_are_scaled_as_those_of_their_file(kind: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    path = tmp_path / ("deep.png" if "PNG" in kind else "deep.tif")
    if "PNG" in kind:
        Image.fromarray((ramp * 65535).astype(np.uint16)).save(path)
    elif "floats" in kind:
        tifffile.imwrite(path, ramp.astype(np.float32))
    elif "signed" in kind:
        tifffile.imwrite(path, (ramp * 30_000).astype(np.int16))
    else:
        tifffile.imwrite(path, (ramp * 65535).astype(np.uint16), byteorder=">" if "Motorola" in kind else "<")
    by_path = decode_image(encoded(path), value_range=(0, 30_000) if "signed" in kind else None)
    assert by_path.min() == 0
    assert by_path.max() == 255
    with Image.open(path) as picture:
        sent = decode_image(encoded(picture), value_range=(0, 30_000) if "signed" in kind else None)
    assert np.array_equal(sent, by_path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pictures_of_every_mode_look_as_they_do_in_pillow(mode: str) -> None:
    picture = Image.new("RGBA", (8, 8), (250, 40, 10, 255)).convert("RGB").convert("P" if mode == "PA" else mode)
    if mode == "PA":
        picture = picture.convert("PA")
    wanted = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(decode_image(encoded(picture)) - wanted).max() <= 1


def test_what_is_transparent_stays_so() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert decode_image(encoded(clear)).min() == 255
    assert decode_image(encoded(clear.convert("RGBa"))).min() == 255


def test_an_animation_gives_the_picture_that_it_stands_at() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with Image.open(buffer) as picture:
        assert decode_image(encoded(picture)).max() == 0


def test_other_things_are_no_images() -> None:
    with pytest.raises(InputError, match="not an image"):
        encoded(7)  # type: ignore[arg-type]


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    """The server was asked, and spoke of an input that is not a text."""
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"empty\.jpg is empty"):
        encoded(tmp_path / "empty.jpg")
