from __future__ import annotations

import io
import pickle
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from dinomill.images.cut import orient
from dinomill.images.decode import DecodeError, Reason, decode_image, probe_image, stored_values

PHOTO = data.astronaut()[:192, :256]


def encode(image: Image.Image | np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def reason(content: bytes, **options: Any) -> Reason:
    with pytest.raises(DecodeError) as caught:
        decode_image(content, **options)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "PPM"])
def test_every_format_gives_the_picture(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    pixels = decode_image(encode(PHOTO, kind, **options))
    assert pixels.shape == PHOTO.shape
    assert pixels.dtype == np.uint8
    error = np.abs(pixels.astype(int) - PHOTO).mean()
    assert error <= {"JPEG": 3, "GIF": 12}.get(kind, 0)


def test_grey_and_colour_convert_into_each_other() -> None:
    grey = data.camera()[:100, :120]
    for kind in ("PNG", "JPEG"):
        colour = decode_image(encode(grey, kind))
        assert colour.shape == (100, 120, 3)
        assert (colour[..., 0] == colour[..., 2]).all()
        single = decode_image(encode(PHOTO, kind), channels=1)
        assert single.shape == (192, 256, 1)
        assert np.abs(single[..., 0].astype(float) - PHOTO @ [0.299, 0.587, 0.114]).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_use_the_whole_range(kind: str) -> None:
    stored = (np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) * 16).astype(np.uint16)
    pixels = decode_image(encode(stored, kind), channels=1)[..., 0]
    assert np.abs(pixels.astype(float) - stored / 257).max() <= 1
    stretched = decode_image(encode(stored, kind), channels=1, value_range=(0, 4095))[..., 0]
    assert stretched.max() == 255
    assert np.abs(stretched.astype(float) - np.minimum(stored / 4095, 1) * 255).max() <= 1


def test_transparency_lies_on_white() -> None:
    rgba = np.dstack([PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)])
    rgba[:, 128:, 3] = 255
    pixels = decode_image(encode(rgba, "PNG"))
    assert (pixels[:, :128] == 255).all()
    assert (pixels[:, 128:] == PHOTO[:, 128:]).all()
    palette = Image.fromarray(PHOTO).quantize(16)
    palette.info["transparency"] = 0
    shown = decode_image(encode(palette, "PNG", transparency=0))
    assert (shown[np.asarray(palette) == 0] == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(kind: str, orientation: int) -> None:
    image = Image.fromarray(PHOTO)
    exif = image.getexif()
    exif[0x0112] = orientation
    content = encode(image, kind, exif=exif, **({"quality": 95} if kind != "PNG" else {}))
    from PIL import ImageOps

    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    pixels = decode_image(content)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 0.5
    info = probe_image(content)
    assert (info.height, info.width) == upright.shape[:2]


@pytest.mark.parametrize(
    "before", [b"\xff\xfe\x00\x0aExif\x00\x00--", b"\xff\xff", b""], ids=["comment", "fill bytes", "-"]
)
def test_exif_rotation_is_found_after_whatever_stands_before_it(before: bytes) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    content = encode(image, "JPEG", exif=exif)
    place = content.index(b"\xff\xe1")
    assert decode_image(content[:place] + before + content[place:]).shape == (40, 16, 3)


def test_what_only_speaks_of_exif_turns_nothing() -> None:
    content = encode(Image.fromarray(np.zeros((16, 40, 3), dtype=np.uint8)), "JPEG")
    comment = b"\xff\xfe\x00\x0aExif\x00\x00\x06\x06"
    assert decode_image(content[:2] + comment + content[2:]).shape == (16, 40, 3)


def test_first_frame_of_an_animation_and_its_count() -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (10, 200, 90)]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert probe_image(content).frames == 3
    assert np.abs(decode_image(content).astype(int) - 10).max() <= 2


def test_jpeg_is_decoded_at_the_scale_that_suffices() -> None:
    content = encode(data.astronaut(), "JPEG", quality=95)
    small = decode_image(content, min_side=120)
    assert min(small.shape[:2]) == 128
    reference = np.asarray(Image.fromarray(data.astronaut()).resize((128, 128), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - reference).mean() < 4
    assert decode_image(content, min_side=4000).shape == (512, 512, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95, -1])
def test_a_truncated_file_is_never_an_image(kind: str, share: float) -> None:
    content = encode(PHOTO, kind)
    cut = content[: int(len(content) * share)] if share > 0 else content[:-2]
    if kind in ("GIF",) and share < 0:
        pytest.skip("GIF's last two bytes hold no pixels")
    if kind == "TIFF":  # Pillow writes the directory first and the pixels after it, or the other way round
        assert reason(cut) in (Reason.TRUNCATED, Reason.CORRUPT, Reason.NOT_AN_IMAGE)
    else:
        assert reason(cut) is Reason.TRUNCATED


@pytest.mark.parametrize("progressive", [False, True])
def test_a_scaled_decode_finds_truncation_too(progressive: bool) -> None:
    content = encode(data.astronaut(), "JPEG", quality=90, progressive=progressive)
    assert reason(content[: int(len(content) * 0.8)], min_side=64) is Reason.TRUNCATED
    assert reason(content[: int(len(content) * 0.8)], channels=1) is Reason.TRUNCATED


def test_damaged_pixels_are_corrupt() -> None:
    damaged = bytearray(encode(PHOTO, "PNG"))
    damaged[len(damaged) // 2] ^= 0x5A
    assert reason(bytes(damaged)) is Reason.CORRUPT
    header = bytearray(encode(PHOTO, "PNG"))
    header[20] ^= 0x5A
    assert reason(bytes(header)) is Reason.CORRUPT
    assert reason(encode(PHOTO, "JPEG")[:30]) is Reason.TRUNCATED
    # JPEG has no checksum: damage shows when the entropy decoder meets an impossible code.
    jpeg = encode(PHOTO, "JPEG")
    hole = jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2)
    assert reason(hole) in (Reason.CORRUPT, Reason.TRUNCATED)


def test_files_that_are_no_images() -> None:
    assert reason(b"") is Reason.EMPTY
    assert reason(b"see the attached scan\n") is Reason.NOT_AN_IMAGE
    assert reason(np.random.default_rng(0).bytes(2000)) is Reason.NOT_AN_IMAGE


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(name: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    assert reason(bomb) is Reason.DECOMPRESSION_BOMB
    with pytest.raises(DecodeError):
        probe_image(bomb)
    assert reason(encode(PHOTO, "JPEG"), max_pixels=1000) is Reason.DECOMPRESSION_BOMB


def test_too_small() -> None:
    assert reason(encode(PHOTO[:1, :1], "PNG"), smallest=8) is Reason.TOO_SMALL


@pytest.mark.parametrize("channels", [2, 5, 12])
def test_many_channels_from_tiff_and_npy(channels: int) -> None:
    stored = np.random.default_rng(0).integers(0, 65536, (40, 50, channels), dtype=np.uint16)
    tiff, npy, first = io.BytesIO(), io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiff, stored, photometric="minisblack", planarconfig="contig")
    np.save(npy, stored)
    np.save(first, np.moveaxis(stored, 2, 0))
    for file in (tiff, npy, first):
        pixels = decode_image(file.getvalue(), channels=channels)
        assert pixels.shape == (40, 50, channels)
        assert np.abs(pixels - stored / 257).max() <= 0.51
    assert reason(npy.getvalue(), channels=channels + 1) is Reason.WRONG_CHANNELS
    assert reason(npy.getvalue()[:-10], channels=channels) is Reason.TRUNCATED
    assert reason(encode(PHOTO, "PNG"), channels=channels) is Reason.WRONG_CHANNELS


def test_npy_floats_need_a_range_and_pickles_are_refused() -> None:
    floats, objects = io.BytesIO(), io.BytesIO()
    np.save(floats, np.linspace(-3, 9, 900, dtype=np.float32).reshape(30, 30))
    assert reason(floats.getvalue(), channels=1) is Reason.UNSUPPORTED
    pixels = decode_image(floats.getvalue(), channels=1, value_range=(-3, 9))
    assert pixels.min() == 0
    assert pixels.max() == 255
    np.save(objects, np.array([[{}, {}], [{}, {}]], dtype=object), allow_pickle=True)
    assert reason(objects.getvalue(), channels=1) is Reason.UNSUPPORTED


def test_the_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(DecodeError(Reason.TRUNCATED, "at 10 bytes")))
    assert (error.reason, error.detail) == (Reason.TRUNCATED, "at 10 bytes")
    assert str(Reason.TRUNCATED) == "truncated"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_is_turned_once(orientation: int) -> None:
    """Pillow turns the pixels of a TIFF when it loads them; they were turned again."""
    stored = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, False)])
    upright = orient(stored, orientation)
    info = probe_image(file.getvalue())
    assert (info.height, info.width) == upright.shape[:2]
    assert (decode_image(file.getvalue()) == upright).all()


@pytest.mark.parametrize("length", range(8, 27))
def test_a_png_cut_within_its_first_bytes_is_truncated(length: int) -> None:
    content = encode(PHOTO, "PNG")[:length]
    assert reason(content) is Reason.TRUNCATED
    with pytest.raises(DecodeError):
        probe_image(content)
    assert (
        stored_values(memoryview(content)) is None
    )  # 8 bits, as far as anybody knows: who reads it says what is wrong


@pytest.mark.parametrize("entry", [struct.pack("<HHII", 256, 4, 2, 8), struct.pack("<HHI4s", 256, 2, 4, b"abc\0")])
@pytest.mark.parametrize("kind", [np.uint16, np.uint8])
def test_a_tiff_whose_tags_do_not_say_its_width_is_refused(entry: bytes, kind: type) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((16, 16), kind), photometric="minisblack")
    content = buffer.getvalue()
    at = content.index(struct.pack("<H", 256), 8)
    content = content[:at] + entry + content[at + 12 :]
    for read in (decode_image, probe_image):
        with pytest.raises(DecodeError):
            read(content)


@pytest.mark.parametrize("orientation", [0, 9, 90, 65535])
def test_an_orientation_that_there_is_none_of_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(PHOTO, "JPEG", exif=exif)
    info = probe_image(content)
    assert (info.height, info.width) == decode_image(content).shape[:2] == PHOTO.shape[:2]
    deep = io.BytesIO()
    tifffile.imwrite(deep, PHOTO.astype(np.uint16), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    info = probe_image(deep.getvalue())
    assert (info.height, info.width) == PHOTO.shape[:2]
