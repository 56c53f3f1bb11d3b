"""TIFF files in memory: those that hold more than 8 bits of grey or colour, which only this reader understands."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np

from dinomill.images import named
from dinomill.images.array_files import check_bytes, check_pixels
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.image_info import ImageInfo
from dinomill.images.tiff import Array, Pieces, damage_is_named, require_sides


@damage_is_named
def tiff_values(data: bytes | memoryview, max_pixels: int) -> Array | None:
    """The numbers of a TIFF's first picture, ``[H, W]`` or ``[H, W, C]``; None where 8 bits of grey or colour hold it.

    Those that hold more every reader of images takes, others none but this one: floats, 32 bits, five channels.

    Raises:
        DecodeError: With the reason.
    """
    page = _first_page(data)
    if page is None or _plain(page):
        return None
    require_sides(page)
    check_pixels(page.imagewidth, page.imagelength, max_pixels)
    _check_values(page)

    def read(length: int, offset: int) -> bytes:
        return bytes(data[offset : offset + length])

    pieces = Pieces([page], read)
    return pieces.read(0, 0, pieces.width, pieces.height)


def _check_values(page: Any) -> None:
    """Of all channels; a tile that is larger than its picture is decoded whole."""
    area = page.imagewidth * page.imagelength
    if page.is_tiled:
        area = max(area, page.tilewidth * page.tilelength)
    item = 1 if page.dtype is None else page.dtype.itemsize
    words = f"{page.imagewidth:,}×{page.imagelength:,} pixels of {page.samplesperpixel} × {item} bytes"
    check_bytes(words, area * page.samplesperpixel * item)


@damage_is_named
def probe_tiff(data: bytes | memoryview) -> ImageInfo | None:
    """The header of a TIFF that holds more than 8 bits of grey or colour; None of any other."""
    page = _first_page(data)
    if page is None or _plain(page):
        return None
    require_sides(page)
    width, height = page.imagewidth, page.imagelength
    if page.tags.valueof(274, 1) in (5, 6, 7, 8):
        width, height = height, width
    several = f"×{page.samplesperpixel}" if page.samplesperpixel > 1 else ""
    return ImageInfo("TIFF", width, height, f"{page.dtype}{several}", len(page.parent.pages))


def tiff_pages(data: bytes | memoryview) -> int:
    """How many pages are chained in a TIFF, 1 at least: Pillow compares each with all before it, for minutes."""
    order: Literal["little", "big"] = "little" if bytes(data[:2]) == b"II" else "big"
    large = 43 in data[2:4]
    place, count, entry = (8, 8, 20) if large else (4, 2, 12)

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], order)

    seen: set[int] = set()
    at = number(place, place if large else 4)
    while at and at not in seen and at + count <= len(data):
        seen.add(at)
        at = number(at + count + entry * number(at, count), 8 if large else 4)
    return max(len(seen), 1)


def _first_page(data: bytes | memoryview) -> Any:
    """The first page of a TIFF; None where there is none that can be understood, which other readers say better.

    Raises:
        DecodeError: unsupported, when it is a camera's raw data with a small preview before it.
    """
    import tifffile

    try:
        page: Any = tifffile.TiffFile(io.BytesIO(data)).pages.first
        preview = bool(page.subfiletype & 1) and 330 in page.tags
    except Exception:
        return None
    if 50706 in page.tags or page.photometric in (32803, 34892) or preview or bytes(data[8:10]) == b"CR":
        raise DecodeError(Reason.UNSUPPORTED, named.RAW.remedy, named.RAW.kind)
    return page


def _plain(page: Any) -> bool:
    """Whether 8 bits of grey or colour hold a page, so that it is read as any other image."""
    bits = page.bitspersample if isinstance(page.bitspersample, tuple) else (page.bitspersample,)
    whole = page.sampleformat in (None, 1) or set(np.ravel(page.sampleformat)) <= {1, 4}
    return max(bits) <= 8 and whole and page.samplesperpixel <= 4 and (page.samplesperpixel != 2 or page.extrasamples)
