"""TIFF files in their pieces: a window decodes the tiles or strips that it touches, a whole picture all of them.

What the stored numbers mean is settled here: inverted and indexed colours, CMYK, transparency, channels in pages.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from dinomill.images.bearable import require_pieces
from dinomill.images.coded_pieces import require_piece
from dinomill.images.cut import orient
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.pixels import on_white

if TYPE_CHECKING:
    from tifffile import TiffPageSeries

Array = npt.NDArray[Any]

PIECES_BYTES = 128 * 2**20  # of decoded pieces in memory, a file; what would need more cannot be cut
ADVICE = (
    "write it as a tiled TIFF: `vips copy IN OUT.tif[tile,bigtiff,compression=lzw]`, or gdal_translate -co TILED=YES"
)


P = ParamSpec("P")
R = TypeVar("R")


def damage_is_named(function: Callable[P, R]) -> Callable[P, R]:
    """What a damaged TIFF makes of a function that believes its tags is a `DecodeError`, whatever was raised."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (OSError, MemoryError, DecodeError):
            raise
        except Exception as error:
            raise _tiff_error(error) from None

    return checked


class Pieces:
    """A page of a TIFF, or several that are the channels of one picture, in coded pieces.

    Args:
        pages: tifffile's.
        file: What their pieces are read from, by length and offset.
    """

    def __init__(self, pages: Sequence[Any], file: Callable[[int, int], bytes]) -> None:
        self._pages, self._first, self._read_at = pages, pages[0].keyframe, file
        first = self._first
        if first.imagedepth != 1 or first.dtype is None:
            raise DecodeError(Reason.UNSUPPORTED, "a volume, or values of a kind that no program here knows")
        self._wide, self._high = first.imagewidth, first.imagelength  # as it is stored
        self._orientation: int = first.tags.valueof(274, 1)
        self._on_its_side = self._orientation in (5, 6, 7, 8)
        self.width, self.height = (self._high, self._wide) if self._on_its_side else (self._wide, self._high)
        tiled = first.is_tiled
        self._across = first.tilewidth if tiled else first.imagewidth
        self._down = min(first.tilelength if tiled else first.rowsperstrip, self._high)
        planar = first.planarconfig == 2 and first.samplesperpixel > 1
        self._planes = first.samplesperpixel if planar else 1
        self._samples = 1 if planar else first.samplesperpixel
        self._grid = (-(-self._high // self._down), -(-self._wide // self._across))
        count = self._grid[0] * self._grid[1] * self._planes * len(pages)
        require_pieces(count, self._wide * self._high * self._planes * len(pages))
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._bytes = 0
        self._room = PIECES_BYTES
        self._lock = threading.Lock()

    @damage_is_named
    def require_room(self, side: int) -> None:
        """Refuse, with advice, when windows of this side would take more memory than is allowed."""
        item = self._samples * self._planes * len(self._pages) * self._first.dtype.itemsize
        rows = (min(side, self._high) // self._down + 2) * self._down  # that a window may touch, whole pieces
        width = (side // self._across + 2) * self._across if self._first.is_tiled else self._wide
        if rows * width * item > PIECES_BYTES:
            kind = "tiles" if self._first.is_tiled else "strips"
            raise DecodeError(
                Reason.UNSUPPORTED,
                f"its {kind} of {self._across}×{self._down} pixels take {rows * width * item / 2**20:,.0f} MB for a "
                f"window of {side}, at most {PIECES_BYTES // 2**20}; {ADVICE}",
            )
        # A band of pieces: windows along it, row by row, find what they share.
        band = width * (self._high + 2 * self._down) if self._on_its_side else rows * (self._wide + 2 * self._across)
        self._room = min(PIECES_BYTES, band * item)

    @damage_is_named
    def read(self, x: int, y: int, width: int, height: int) -> Array:
        """The values of a window of the upright picture, ``[height, width]`` or ``[height, width, C]``."""
        x, y, width, height = self._stored(x, y, width, height)
        every = [(page, plane) for page in range(len(self._pages)) for plane in range(self._planes)]
        planes = [self._plane(page, plane, x, y, width, height) for page, plane in every]
        found = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        return self._meant(found)

    def _stored(self, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Where a window of the upright picture lies in the stored one: `orient` backwards."""
        if self._orientation in (2, 3, 6, 7):
            x = self.width - x - width
        if self._orientation in (3, 4, 7, 8):
            y = self.height - y - height
        return (y, x, height, width) if self._on_its_side else (x, y, width, height)

    def _plane(self, page: int, plane: int, x: int, y: int, width: int, height: int) -> Array:
        window = np.empty((height, width, self._samples), dtype=self._first.dtype)
        for row in range(y // self._down, (y + height - 1) // self._down + 1):
            for column in range(x // self._across, (x + width - 1) // self._across + 1):
                number = (plane * self._grid[0] + row) * self._grid[1] + column
                top, left = row * self._down, column * self._across
                piece = self._piece(page, number)
                up, down = max(top, y), min(top + piece.shape[0], y + height)
                start, end = max(left, x), min(left + piece.shape[1], x + width)
                window[up - y : down - y, start - x : end - x] = piece[up - top : down - top, start - left : end - left]
        return window

    def _piece(self, page: int, number: int) -> Array:
        """A decoded piece ``[h, w, samples]``, as far as it lies within the picture."""
        with self._lock:
            key = (page, number)
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            piece = self._decode(page, number)
            self._kept[key] = piece
            self._bytes += piece.nbytes
            while self._bytes > self._room and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return piece

    def _decode(self, page: int, number: int) -> Array:
        first, own = self._first, self._pages[page]
        offset, length = own.dataoffsets[number], own.databytecounts[number]
        data = self._read_at(length, offset) if length else None
        if data is not None and len(data) < length:
            raise DecodeError(
                Reason.TRUNCATED, f"piece {number:,} of the TIFF ends after {len(data):,} of {length:,} bytes"
            )
        if data is not None:
            require_piece(data, first.compression, self._across, self._down, self._samples)
        try:
            piece, _, shape = first.decode(data, number, jpegtables=first.jpegtables, jpegheader=first.jpegheader)
        except Exception as error:
            raise _tiff_error(error) from None
        if piece is None:  # a piece without data: nothing was recorded there
            piece = np.full(shape, first.nodata, dtype=first.dtype)
        down, across = self._down, self._across
        row, column = divmod(number % (self._grid[0] * self._grid[1]), self._grid[1])
        return np.asarray(piece[0, : min(down, self._high - row * down), : min(across, self._wide - column * across)])

    def _meant(self, found: Array) -> Array:
        """What the stored numbers mean: inverted and indexed colours, transparency, CMYK."""
        from tifffile import PHOTOMETRIC

        first = self._first
        kind, channels = first.photometric, found.shape[2]
        if kind == PHOTOMETRIC.PALETTE and first.colormap is not None:
            colours = np.asarray(first.colormap)
            return np.ascontiguousarray((colours[:, found[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0))
        if kind == PHOTOMETRIC.MINISWHITE and found.dtype.kind in "ub":
            found = ~found
        if kind == PHOTOMETRIC.SEPARATED and channels == 4 and found.dtype == np.uint8:
            from PIL import Image

            found = np.asarray(
                Image.frombytes("CMYK", (found.shape[1], found.shape[0]), found.tobytes()).convert("RGB")
            )
        elif first.extrasamples and int(first.extrasamples[0]) in (1, 2) and channels in (2, 4):
            found = on_white(found, associated=int(first.extrasamples[0]) == 1)
        if found.dtype == np.bool_:
            found = found.astype(np.uint8) * np.uint8(255)
        found = orient(found, self._orientation)
        return np.ascontiguousarray(found[..., 0] if found.shape[2] == 1 else found)


def open_tiff(path: Path, level: int) -> tuple[Any, str]:
    """A level of a TIFF's first picture, and the byte order of the file.

    Raises:
        DecodeError: When it is damaged, or has no such level.
    """
    import tifffile

    try:
        file = tifffile.TiffFile(path)
        require_sides(file.pages[0])  # a series of impossible sides is searched for without end
        levels = file.series[0].levels
    except Exception as error:
        raise _tiff_error(error) from None
    if level >= len(levels):
        detail = f"its pyramid has {len(levels)} levels, 0 to {len(levels) - 1}; not {level}"
        raise DecodeError(Reason.UNSUPPORTED, detail)
    return levels[level], file.byteorder


def require_sides(page: Any) -> None:
    """Refuse a page whose tags do not say how large it is: they may hold several numbers, or text.

    Raises:
        DecodeError: corrupt.
    """
    for side in (page.imagewidth, page.imagelength):
        if not isinstance(side, int) or side < 1:
            raise DecodeError(Reason.CORRUPT, "its tags do not say how large it is")


def is_contiguous(series: TiffPageSeries) -> bool:
    """Whether its numbers lie in the file one after the other, and mean what they say.

    Raises:
        DecodeError: unsupported, when it is no single picture.
    """
    page: Any = series.keyframe
    simple = page.photometric in (1, 2) and not page.extrasamples and page.tags.valueof(274, 1) == 1
    if series.dataoffset is None or not simple or page.dtype is None or page.dtype.kind not in "uif":
        return False
    _require_plane(series)
    return True


def pieces_of(path: Path, series: TiffPageSeries) -> Pieces:
    """A picture in pieces.

    Raises:
        DecodeError: unsupported.
    """
    pages = _channel_pages(series)
    if any(page.parent.filehandle.path != str(path.absolute()) for page in pages):
        raise DecodeError(Reason.UNSUPPORTED, "a picture in several files, of which this is one")
    return Pieces(pages, functools.partial(_read_at, path.open("rb")))


def _read_at(file: BinaryIO, length: int, offset: int) -> bytes:
    return os.pread(file.fileno(), length, offset)


def _require_plane(series: TiffPageSeries) -> None:
    if not {"Y", "X"} <= set(series.axes) or {"S", "C"} <= set(series.axes):
        raise DecodeError(Reason.UNSUPPORTED, f"a TIFF with the axes {series.axes} {series.shape}: no single picture")


def _channel_pages(series: TiffPageSeries) -> list[Any]:
    """The first page of a series, or the pages that are its channels."""
    axes, shape = series.axes, series.shape
    if "C" not in axes or len(series) == 1 or "S" in axes:
        return [series[0]]
    _require_plane(series)
    outer = [axis for axis in axes if axis not in "YX"]
    sizes = [shape[axes.index(axis)] for axis in outer]
    place = outer.index("C")
    numbers = [
        int(np.ravel_multi_index([channel if at == place else 0 for at in range(len(outer))], sizes))
        for channel in range(sizes[place])
    ]
    return [series[number] for number in numbers]


def _tiff_error(error: Exception) -> DecodeError:
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, NotImplementedError) or "not supported" in message or "requires the 'imagecodecs'" in message:
        return DecodeError(Reason.UNSUPPORTED, message)
    return DecodeError(Reason.CORRUPT, message)
