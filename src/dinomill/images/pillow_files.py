"""Image files that Pillow reads: opened with care, and made pixels a piece at a time, in little memory."""

from __future__ import annotations

import functools
import io
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from dinomill.arrays import Pixels
from dinomill.images.array_files import check_pixels
from dinomill.images.bearable import require_bearable
from dinomill.images.cut import Box, Cut, orient, stored_box
from dinomill.images.decode_error import NO_MEMORY, DecodeError, Reason
from dinomill.images.named import name_format
from dinomill.images.pixels import compose_on_white, to_uint8
from dinomill.images.pnm import with_common_white

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# What Pillow may open. Left out: formats that start other programs (EPS) and those that any text can pass for (TGA).
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO", "ICNS", "SGI")
_ORIENTATION = 0x0112
MAX_PIXELS = 178_956_970  # Pillow's own limit for an error: 0.5 GB of RGB
_MOST_CHUNKS = 100_000  # of a PNG: programs write 8 kB or more into one
_PIECE = 1 << 20  # pixels that are converted at once
# Pillow has four bytes a pixel and eight a row: of images of one column three times what the pixels take. They may be
# as much as squares of a quarter more than the most pixels.
_PIXEL, _ROW, _MOST = 4, 8, 5


def open_image(data: bytes | memoryview, max_pixels: int) -> ImageFile.ImageFile:
    """Open a file; its pixels are not read yet.

    Raises:
        DecodeError: not_an_image, unsupported, truncated, corrupt, decompression_bomb.
    """
    head = bytes(data[:12])
    if head[:8] == _PNG:
        _check_png(data)
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP" and int.from_bytes(head[4:8], "little") + 8 > len(data):
        raise DecodeError(Reason.TRUNCATED, f"{len(data):,} bytes; the header announces more")
    require_bearable(data, max_pixels)
    data = with_common_white(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        if (known := name_format(data)) is not None:
            raise DecodeError(Reason.UNSUPPORTED, known.remedy, known.kind) from None
        if head.startswith((_JPEG, _PNG, b"GIF8", b"RIFF", *_TIFF)):
            raise DecodeError(Reason.CORRUPT, "the header is damaged") from None
        raise DecodeError(Reason.NOT_AN_IMAGE, "no known image format begins like this") from None
    except Exception as error:
        raise _as_decode_error(error) from None
    width, height = image.size
    check_pixels(width, height, max_pixels)
    taken, most = width * height * _PIXEL + height * _ROW, _MOST * max(max_pixels, MAX_PIXELS)
    if taken > most:
        raise DecodeError(
            Reason.DECOMPRESSION_BOMB,
            f"{width}×{height} pixels take {taken / 2**20:,.0f} MB, as each row does; at most {most / 2**20:,.0f} MB",
        )
    return image


def load(image: ImageFile.ImageFile) -> None:
    """Read the pixels of an opened file.

    Raises:
        DecodeError: With the reason.
    """
    try:
        image.load()
    except Exception as error:
        raise _as_decode_error(error) from None


def pixels_of(
    image: ImageFile.ImageFile, channels: int, value_range: tuple[float, float] | None, cut: Cut | None
) -> Pixels:
    """The pixels of an opened file, uint8 ``[H, W, channels]``, upright, on white.

    Args:
        image: As opened; one of 1 or 3 channels is made of it.
        channels: 1 or 3.
        value_range: See ``decode_image``.
        cut: What of it is wanted.

    Raises:
        DecodeError: With the reason.
    """
    orientation = orientation_of(image)
    load(image)
    box = stored_box(cut, image.height, image.width, orientation)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
        stored = np.asarray(image)
        values = to_uint8(stored.astype(np.uint16) if sixteen_bit else stored, value_range)
        grey = values[box.top : box.bottom, box.left : box.right, None]
        return orient(np.repeat(grey, channels, axis=2), orientation)
    pixels = np.empty((box.bottom - box.top, box.right - box.left, channels), np.uint8)
    for piece in _pieces(box):
        part = compose_on_white(image if piece == (0, 0, *image.size) else image.crop(piece))
        rows = slice(piece.top - box.top, piece.bottom - box.top)
        columns = slice(piece.left - box.left, piece.right - box.left)
        converted = np.asarray(part.convert("RGB" if channels == 3 else "L"))
        pixels[rows, columns] = converted.reshape(*converted.shape[:2], channels)
    return orient(pixels, orientation)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where nothing is to be turned."""
    if image.format == "TIFF":  # whose pixels Pillow turns itself, and whose size it gives as turned
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1


def frames_of(image: Image.Image) -> int:
    """How many pictures the file holds."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a damaged later frame: the first one is what is used
        return 1


def _pieces(box: Box) -> Iterator[Box]:
    """A box in parts of some million pixels: what converts them takes memory of its own, several times theirs."""
    across = min(box.right - box.left, _PIECE)
    down = max(_PIECE // max(across, 1), 1)
    for top in range(box.top, box.bottom, down):
        for left in range(box.left, box.right, across):
            yield Box(left, top, min(left + across, box.right), min(top + down, box.bottom))


def _check_png(data: bytes | memoryview) -> None:
    """Compare the checksums that PNG carries: Pillow reads damaged pixels without a word."""
    view = memoryview(data)
    position, chunks = len(_PNG), 0
    while position + 12 <= len(view):
        chunks += 1
        if chunks > _MOST_CHUNKS:
            raise DecodeError(Reason.DECOMPRESSION_BOMB, f"a PNG of more than {_MOST_CHUNKS:,} chunks")
        length, name = int.from_bytes(view[position : position + 4], "big"), bytes(view[position + 4 : position + 8])
        end = position + 12 + length
        if end > len(view):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DecodeError(Reason.CORRUPT, f"wrong checksum of the chunk {name.decode('latin-1')} at {position:,}")
        if name == b"IEND":
            return
        position = end
    raise DecodeError(Reason.TRUNCATED, f"the file ends at {len(view):,} bytes without PNG's end mark")


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF is not in every build


def _as_decode_error(error: Exception) -> DecodeError:
    """Pillow's decoders raise many types on damaged input; the message tells them apart."""
    message = str(error) or type(error).__name__
    said = message.lower()
    if isinstance(error, MemoryError):
        return DecodeError(Reason.DECOMPRESSION_BOMB, NO_MEMORY)
    if isinstance(error, Image.DecompressionBombError):
        return DecodeError(Reason.DECOMPRESSION_BOMB, message)
    if isinstance(error, NotImplementedError) or "not supported" in said or "unsupported" in said:
        return DecodeError(Reason.UNSUPPORTED, message)
    truncated = ("truncated", "unexpected end", "incomplete", "not enough", "broken png file", "buffer")
    if isinstance(error, EOFError) or any(word in said for word in truncated):
        return DecodeError(Reason.TRUNCATED, message)
    return DecodeError(Reason.CORRUPT, message)
