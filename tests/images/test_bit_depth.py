"""Numbers of every kind in TIFF, PNG and .npy: read, or called what they are with what to do."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.images.decode import DecodeError, decode_image, probe_image
from dinomill.images.pixels import fitting_range, unlike_kinds

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def colour() -> Array:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[100:160, 100:180])


def tiff(stored: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stored, photometric="rgb" if stored.ndim == 3 else "minisblack", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["uint16", "uint32", "int16", "int32", "float16", "float32", "float64"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "lzw"}, {"compression": "deflate", "predictor": True}, {"tile": (16, 32)}]
)
@pytest.mark.parametrize("grey", [True, False])
def test_valid_tiffs_are_read_whatever_their_numbers(
    colour: Array, kind: str, options: dict[str, Any], grey: bool
) -> None:
    shown = colour[..., 1] if grey else colour
    data = tiff((shown.astype(np.float64) * 3 + 100).astype(kind), **options)
    info = probe_image(data)
    assert (info.format, info.width, info.height) == ("TIFF", 80, 60)
    assert info.is_deep
    found = decode_image(data, value_range=(100, 865))
    expected = np.repeat(shown[..., None], 3, axis=2) if grey else shown
    assert np.abs(found.astype(int) - expected).max() <= (1 if kind == "float16" else 0)
    assert decode_image(data, channels=1, value_range=(100, 865)).shape == (60, 80, 1)


def test_floats_from_0_to_1_need_no_range_and_others_say_which_key(colour: Array) -> None:
    assert np.array_equal(decode_image(tiff((colour / 255).astype(np.float32))), colour)
    with pytest.raises(DecodeError) as caught:
        decode_image(tiff(colour.astype(np.float32) - 20))
    assert caught.value.countable == "unsupported:value_range"
    assert "curation.scan.preflight.value_range" in caught.value.detail
    with pytest.raises(DecodeError, match="not finite"):
        decode_image(tiff(np.full((20, 20), np.nan, np.float32)), value_range=(0, 1))


def test_many_channels_are_read_as_such_and_never_called_corrupt(colour: Array) -> None:
    stack = np.concatenate([colour, colour[..., :2]], axis=2)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, photometric="minisblack", planarconfig="contig", extrasamples=[0] * 4)
    data = buffer.getvalue()
    assert np.array_equal(decode_image(data, channels=5), stack)
    assert (probe_image(data).width, probe_image(data).height) == (80, 60)
    with pytest.raises(DecodeError, match="files of") as caught:
        decode_image(data)
    assert caught.value.countable == "wrong_channels"


def test_colour_of_16_bits_keeps_them_until_the_range_is_applied(colour: Array) -> None:
    import cv2

    stored = colour.astype(np.uint16) * 16  # 12 bits
    done, png = cv2.imencode(".png", stored[..., ::-1])
    assert done
    for data in (tiff(stored), png.tobytes()):
        assert np.abs(decode_image(data, value_range=(0, 4080)).astype(int) - colour).max() == 0
        assert decode_image(data).max() <= 16
    clear = np.dstack([stored, np.zeros_like(stored[..., 0])])
    assert (decode_image(cv2.imencode(".png", clear)[1].tobytes()) == 255).all()


def test_eight_bits_stay_as_they_are_beside_a_range(colour: Array) -> None:
    buffer = io.BytesIO()
    np.save(buffer, colour)
    png = io.BytesIO()
    Image.fromarray(colour).save(png, "PNG")
    for data in (buffer.getvalue(), png.getvalue(), tiff(colour)):
        assert np.array_equal(decode_image(data, value_range=(0, 4095)), colour)


def test_a_deep_tiff_is_upright(colour: Array) -> None:
    data = tiff(colour[..., 0].astype(np.float32) / 255, extratags=[(274, "H", 1, 6, True)])
    assert (probe_image(data).width, probe_image(data).height) == (60, 80)
    assert np.array_equal(decode_image(data, channels=1)[..., 0], np.rot90(colour[..., 0], -1))


def test_damage_is_still_damage(colour: Array) -> None:
    data = tiff(colour.astype(np.float32) / 255, compression="deflate")
    with pytest.raises(DecodeError) as caught:
        decode_image(data[: len(data) // 2])
    assert caught.value.reason in ("truncated", "corrupt")
    with pytest.raises(DecodeError) as caught:
        decode_image(tiff(np.zeros((40, 40), np.float32)), max_pixels=1_000)
    assert caught.value.reason == "decompression_bomb"


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "HEIC"),
        (b"\x00\x00\x00\x18ftypcrx " + bytes(20), "RAW"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(20), "video"),
        (b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(40), "video"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"PK\x03\x04" + bytes(30), "archive"),
        (b"ZISRAWFILE" + bytes(30), "microscope file"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(30), None),
    ],
)
def test_what_is_not_read_is_named(beginning: bytes, kind: str | None) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_image(beginning)
    if kind:
        assert caught.value.countable == f"unsupported:{kind}"
        assert len(caught.value.detail) > 20, "with what to do"


def test_a_cameras_raw_data_is_not_its_preview(colour: Array) -> None:
    data = tiff(colour, extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])  # DNGVersion
    with pytest.raises(DecodeError) as caught:
        decode_image(data)
    assert caught.value.countable == "unsupported:RAW"


def test_kinds_that_no_one_range_suits_are_named_and_none_is_proposed() -> None:
    twelve = [((0.0, 4000.0 + number), "uint16") for number in range(5)]
    full = [((3.0, 65_000.0), "I;16")] * 5
    share, measured = [((0.0, 0.9), "float32")] * 5, [((10.0, 3900.0), "F")] * 5
    assert fitting_range(twelve) == (0.0, 4095.0) and fitting_range(full) is None and fitting_range(share) is None
    for one in (twelve, full, share, measured):
        assert unlike_kinds(one) == {}
    mixed = unlike_kinds([*twelve, *share])
    assert mixed == {"16-bit integers": (0.0, 4095.0), "floats": (0.0, 1.0)}
    assert unlike_kinds([*full, *share]) and unlike_kinds([*full, *measured])
    for one in ([*twelve, *share], [*full, *share], [*full, *measured]):
        assert fitting_range(one) is None  # what shows the one hides the other
    assert unlike_kinds([*twelve, *measured]) == {}  # on one scale
    low, high = fitting_range([*twelve, *measured]) or (0.0, 0.0)
    assert low == 0 and 3900 <= high <= 4095
    assert fitting_range([]) is None and unlike_kinds([]) == {}
