"""Bytes of an image file to pixels: strict about damage, exact about orientation, fast for JPEG."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from dinomill.arrays import Pixels
from dinomill.images.array_files import check_pixels, npy_header, read_npy, read_tiff
from dinomill.images.cut import Cut, orient, upright_part
from dinomill.images.decode_error import DecodeError, Reason, memory_is_named
from dinomill.images.image_info import ImageInfo
from dinomill.images.jpeg_scans import require_scans
from dinomill.images.pillow_files import MAX_PIXELS, frames_of, load, open_image, orientation_of, pixels_of
from dinomill.images.pixels import on_white, to_channels

Data = bytes | memoryview

__all__ = ["MAX_PIXELS", "DecodeError", "ImageInfo", "Reason", "decode_image", "probe_image", "stored_values"]

_NPY = b"\x93NUMPY"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_EXIF_WINDOW = 1 << 17  # an APP1 segment holds at most 64 KiB and comes among the first
_EXIF, _APP1, _PICTURE = b"Exif\x00\x00", 0xE1, 0xDA


@memory_is_named
def probe_image(data: Data, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read the header only. A file that passes may still be truncated: ``decode_image`` finds out.

    Raises:
        DecodeError: empty, not_an_image, decompression_bomb, unsupported.
    """
    _require_bytes(data)
    if bytes(data[:6]) == _NPY:
        shape, dtype, _ = npy_header(data)
        height, width = shape[:2] if len(shape) == 2 or shape[0] > shape[-1] else shape[1:3]
        return ImageInfo("NPY", width, height, str(dtype), 1)
    if bytes(data[:4]) in _TIFF:
        from dinomill.images.tiff_bytes import probe_tiff, tiff_pages

        if (info := probe_tiff(data)) is not None:
            check_pixels(info.width, info.height, max_pixels)
            return info
    with open_image(data, max_pixels) as image:
        width, height = image.size
        if orientation_of(image) in (5, 6, 7, 8):
            width, height = height, width
        frames = tiff_pages(data) if image.format == "TIFF" else frames_of(image)
        return ImageInfo(image.format or "unknown", width, height, image.mode, frames)


@memory_is_named
def decode_image(
    data: Data,
    *,
    channels: int = 3,
    min_side: int | None = None,
    smallest: int = 1,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    cut: Cut | None = None,
) -> Pixels:
    """Decode a whole file to uint8 ``[H, W, C]``, upright, transparency composited on white, first frame.

    Args:
        data: The file's bytes.
        channels: 3 (RGB), 1 (grey), or the number that a TIFF or ``.npy`` file must hold.
        min_side: The shorter side that suffices, in pixels: a larger JPEG is decoded at a half, a quarter or an
            eighth, as small as is not below it (other scales take longer than the whole picture). Other formats come
            at full size.
        smallest: Files with a side below this many pixels are refused.
        value_range: Stored values mapped to 0 and 255, for 16-bit and floating-point files; None is the type's whole
            range (floats: 0 to 1).
        max_pixels: Files with more pixels are refused before any memory is taken.
        cut: What of the upright picture is wanted, by the size at which it is decoded: the rest is not converted.

    Raises:
        DecodeError: With the reason. Missing pixels are never filled in with grey. Damage inside a file is found by
            PNG's checksums; JPEG has none, and shows it only where the entropy decoder meets an impossible code.
    """
    _require_bytes(data)
    head = bytes(data[:6])
    pixels = None
    if head[:3] == _JPEG and channels in (1, 3):
        pixels = _decode_jpeg(data, channels, min_side, max_pixels, cut)
    elif head[:4] in _TIFF and channels not in (1, 3):
        pixels = to_channels(read_tiff(data, max_pixels), channels, value_range, cut)
    else:
        stored = stored_values(data, max_pixels=max_pixels)
        pixels = None if stored is None else to_channels(stored, channels, value_range, cut)
    if pixels is None:
        if channels not in (1, 3):
            raise DecodeError(Reason.WRONG_CHANNELS, f"{channels} channels are read from TIFF and .npy files only")
        with open_image(data, max_pixels) as image:
            pixels = pixels_of(image, channels, value_range, cut)
    if min(pixels.shape[:2]) < smallest:
        raise DecodeError(Reason.TOO_SMALL, f"{pixels.shape[1]}×{pixels.shape[0]} pixels; at least {smallest} a side")
    return pixels


@memory_is_named
def stored_values(data: Data, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.generic] | None:
    """The numbers of a file of more than 8 bits, or of many channels, ``[H, W]`` or ``[H, W, C]``, upright.

    None: 8 bits of grey or colour hold it.

    Raises:
        DecodeError: With the reason.
    """
    _require_bytes(data)
    head = bytes(data[:26])
    if head[:6] == _NPY:
        return read_npy(data, max_pixels)
    if head[:4] in _TIFF:
        from dinomill.images.tiff_bytes import tiff_values

        return tiff_values(data, max_pixels)
    if head[:8] == _PNG and head[24:25] == b"\x10":
        return _deep_png(data, max_pixels)
    return None


def _deep_png(data: Data, max_pixels: int) -> npt.NDArray[np.generic] | None:
    """A PNG of 16 bits a channel. Pillow keeps eight of them where there is colour."""
    import cv2

    if (orientation := _sound_png(data, max_pixels)) is None:
        return None
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16:
        return None
    values: npt.NDArray[np.generic] = stored if stored.ndim == 3 else stored[..., None]
    if values.shape[2] >= 3:
        values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    if values.shape[2] in (2, 4):
        values = on_white(values, associated=False)
    return orient(values, orientation)


def _sound_png(data: Data, max_pixels: int) -> int | None:
    """The orientation of a PNG without damage; None where one colour of many is transparent: Pillow knows that."""
    with open_image(data, max_pixels) as image:
        if "transparency" in image.info:
            return None
        load(image)
        return orientation_of(image)


def _decode_jpeg(data: Data, channels: int, min_side: int | None, max_pixels: int, cut: Cut | None) -> Pixels | None:
    """The fast path; None hands the file to Pillow (CMYK, arithmetic coding, 12 bits)."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if space in ("CMYK", "YCCK"):
        return None
    check_pixels(width, height, max_pixels)
    require_scans(data)
    eighths = 8
    # Only by what divides both sides: 299 rows as 150 would be half a row too long, and all that follows beside it.
    while (
        min_side
        and eighths > 1
        and min(height, width) * eighths >= min_side * 16
        and not (height * eighths // 2 % 8 or width * eighths // 2 % 8)
    ):
        eighths //= 2
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if channels == 1 else "RGB",
            min_height=-(-height * eighths // 8),
            min_width=-(-width * eighths // 8),
            strict=True,  # libjpeg's warnings are damage: rows that it would fill with grey
        )
    except ValueError as error:
        message = str(error)
        if "nsupported" in message:
            return None
        raise DecodeError(Reason.TRUNCATED if "remature end" in message else Reason.CORRUPT, message) from None
    return upright_part(pixels, _jpeg_orientation(data), cut)


def _require_bytes(data: Data) -> None:
    if len(data) == 0:
        raise DecodeError(Reason.EMPTY, "0 bytes")


def _jpeg_orientation(data: Data) -> int:
    """The EXIF orientation, 1 when there is none. Pillow is asked only when an EXIF segment is there (50 µs saved)."""
    if not _may_have_exif(data):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            return orientation_of(image)
    except Exception:
        return 1


def _may_have_exif(data: Data) -> bool:
    """Whether a JPEG has an EXIF segment before its coded picture (a search in all bytes takes 20 µs more)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, start = data[position + 1], position + 4
        if marker == _PICTURE:
            return False
        if marker == _APP1 and bytes(data[start : start + len(_EXIF)]) == _EXIF:
            return True
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:
            break
        position += 2 + int.from_bytes(data[position + 2 : start], "big")
    return _EXIF in bytes(data[:_EXIF_WINDOW])  # an unusual structure
