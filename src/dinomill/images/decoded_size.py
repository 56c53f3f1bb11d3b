"""How much memory a picture takes once it is decoded, by its header alone: for servers, which are asked by anybody."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from dinomill.images.array_files import npy_header
from dinomill.images.decode_error import DecodeError, Reason

BYTES_A_PIXEL = 4  # what a limit in pixels means in bytes: colour of 8 bits with transparency, or one float
_PNG, _NPY = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by its type of colour


class DecodedSize(NamedTuple):
    """What is in a picture, in words, and its bytes in memory."""

    words: str
    bytes: int


def require_affordable(data: bytes | memoryview, channels: int, max_pixels: int) -> None:
    """Refuse a picture whose values take more than ``max_pixels`` of four bytes, before memory is taken for them.

    For the formats of values of any size (TIFF, ``.npy``, PNG of 16 bits). The others have four bytes a pixel at most:
    for them the ``max_pixels`` of ``decode_image`` says the same.

    Args:
        data: The file's bytes.
        channels: Of the network: where it is neither grey nor colour, a TIFF is read with all of its pages.
        max_pixels: Of pictures with 8 bits of colour.

    Raises:
        DecodeError: decompression_bomb, with what was found and what is allowed; what `npy_header` says.
    """
    size = decoded_size(data, channels)
    most = max_pixels * BYTES_A_PIXEL
    if size is not None and size.bytes > most:
        raise DecodeError(
            Reason.DECOMPRESSION_BOMB,
            f"{size.words} take {size.bytes / 2**20:,.0f} MB; at most {most / 2**20:,.0f} MB, "
            f"as of {max_pixels:,} pixels of colour",
        )


def decoded_size(data: bytes | memoryview, channels: int) -> DecodedSize | None:
    """The size of a TIFF, ``.npy`` or PNG; None of other formats, and where no header can be read.

    Raises:
        DecodeError: When it is a damaged ``.npy`` file.
    """
    head = bytes(data[:32])
    if head[:8] == _PNG and len(head) > 25:
        return _png_size(head)
    if head[:6] == _NPY:
        shape, dtype, _ = npy_header(data)
        # Python's integers: numpy's would overflow at a shape that was made up.
        count = int(np.prod(np.array(shape, dtype=object)))
        return DecodedSize(f"{_sides(shape)} values of {dtype}", count * dtype.itemsize)
    return _tiff_size(data, channels) if head[:4] in _TIFF else None


def _png_size(head: bytes) -> DecodedSize:
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    samples, deep = _PNG_SAMPLES.get(head[25], 4), head[24] == 16
    item = samples * 2 if deep else min(samples, BYTES_A_PIXEL)
    return DecodedSize(f"{width:,}×{height:,} pixels of {item} bytes", width * height * item)


def _tiff_size(data: bytes | memoryview, channels: int) -> DecodedSize | None:
    """Of the first page, or of its series where all pages are channels. Tiles count whole: they are decoded so."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            item = page.dtype.itemsize if page.dtype is not None else -(-int(np.max(page.bitspersample)) // 8)
            area = page.imagewidth * page.imagelength * max(page.imagedepth, 1)
            if page.is_tiled:
                area = max(area, page.tilewidth * page.tilelength)
            words = f"{page.imagewidth:,}×{page.imagelength:,} pixels of {page.samplesperpixel} × {item} bytes"
            size = DecodedSize(words, area * page.samplesperpixel * item)
            if channels in (1, 3) or file.series[0].dtype is None:
                return size
            shape = file.series[0].shape
            count = int(np.prod(np.array(shape, dtype=object))) * file.series[0].dtype.itemsize
            return DecodedSize(f"{_sides(shape)} values", count) if count > size.bytes else size
    except Exception:  # the decoder finds better words for a damaged file
        return None


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(f"{side:,}" for side in shape)
