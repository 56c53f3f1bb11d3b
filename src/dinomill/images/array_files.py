"""Image files that are plain arrays, with any number of channels: ``.npy`` and TIFF (microscopes, satellites)."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dinomill.images.bearable import require_pieces
from dinomill.images.coded_pieces import require_piece
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.file_bytes import MOST_BYTES

if TYPE_CHECKING:
    import tifffile


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse more pixels than ``max_pixels``, before memory is taken for them.

    Raises:
        DecodeError: decompression_bomb.
    """
    if width * height > max_pixels:
        raise DecodeError(Reason.DECOMPRESSION_BOMB, f"{width}×{height} pixels; at most {max_pixels:,}")


def check_bytes(words: str, size: int) -> None:
    """Refuse values that take more memory than any picture may, before it is taken: channels and types count, too.

    Args:
        words: What they are of.
        size: Bytes.

    Raises:
        DecodeError: decompression_bomb.
    """
    if size > MOST_BYTES:
        raise DecodeError(
            Reason.DECOMPRESSION_BOMB,
            f"{words} take {size / 2**20:,.0f} MB; at most {MOST_BYTES / 2**20:,.0f} MB",
        )


def npy_header(data: bytes | memoryview) -> tuple[tuple[int, ...], np.dtype[np.generic], Literal["C", "F"]]:
    """Shape, type and order of a ``.npy`` file: by rows, or by columns (``a.T``).

    Raises:
        DecodeError: corrupt, unsupported.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except Exception:  # it is read as Python, which has many words for what is none (MemoryError, too), and repeats it
        raise DecodeError(Reason.CORRUPT, "the header of the array is damaged") from None
    if dtype.kind not in "uifb" or len(shape) not in (2, 3) or min(shape) < 1:
        sides = shape if len(shape) < 5 else f"{len(shape):,} sides"
        kind = "records" if dtype.kind == "V" else dtype
        raise DecodeError(Reason.UNSUPPORTED, f"an array of shape {sides} and type {kind}; numbers [H, W] or [H, W, C]")
    return shape, dtype, "F" if by_columns else "C"


def read_npy(data: bytes | memoryview, max_pixels: int) -> npt.NDArray[np.generic]:
    """The array of a ``.npy`` file; nothing in it is ever executed.

    Raises:
        DecodeError: corrupt, truncated, unsupported, decompression_bomb.
    """
    shape, dtype, _ = npy_header(data)
    check_pixels(1, math.prod(shape) // min(shape), max_pixels)
    if math.prod(shape) * dtype.itemsize > len(data):
        raise DecodeError(Reason.TRUNCATED, f"{len(data):,} bytes do not hold {shape} values of {dtype}")
    try:
        loaded: npt.NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError:  # the header's own bytes make up for what is missing in the check above
        raise DecodeError(Reason.TRUNCATED, f"the file ends before its {shape} values of {dtype} do") from None
    return loaded


def _require_bearable(data: bytes | memoryview, series: tifffile.TiffPageSeries) -> None:
    page: Any = series.keyframe
    values = math.prod(series.shape) // (1 if page.planarconfig == 2 else max(page.samplesperpixel, 1))
    require_pieces(len(page.dataoffsets) * len(series), values)
    tiled = page.is_tiled
    width = page.tilewidth if tiled else page.imagewidth
    height = page.tilelength if tiled else min(page.rowsperstrip, page.imagelength)
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    pages: Any = series
    for one in pages:
        for offset, length in zip(one.dataoffsets, one.databytecounts, strict=True):
            require_piece(bytes(data[offset : offset + length]), page.compression, width, height, samples)


def read_tiff(data: bytes | memoryview, max_pixels: int) -> npt.NDArray[np.generic]:
    """The first series of a TIFF file, with all of its channels.

    Raises:
        DecodeError: corrupt, decompression_bomb.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            check_pixels(1, int(np.prod(series.shape)) // max(min(series.shape), 1), max_pixels)
            count = math.prod(series.shape)
            check_bytes(f"{'×'.join(map(str, series.shape))} values of {series.dtype}", count * series.dtype.itemsize)
            _require_bearable(data, series)
            array: npt.NDArray[np.generic] = series.asarray()
            return array
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(Reason.CORRUPT, str(error) or type(error).__name__) from None
