"""Windows of large images, read without decoding the whole: TIFF of any layout, ``.npy``, and what fits into memory.

A TIFF lies in pieces, tiles or strips, each coded by itself. A window needs the pieces that it touches; decoded ones
are kept until newer ones displace them, so that windows in reading order decode each piece about once.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dinomill.images.array_files import npy_header
from dinomill.images.decode import ImageInfo, decode_image, decode_stored, probe_image
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.pixels import on_white, orient

if TYPE_CHECKING:
    from tifffile import TiffPageSeries

Array = npt.NDArray[Any]

PIECES_BYTES = 128 * 2**20  # of decoded pieces in memory, a file; what would need more cannot be cut
_OPEN = 2  # files that are kept open, each with its pieces
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_NPY = b"\x93NUMPY"
_ADVICE = (
    "write it as a tiled TIFF: `vips copy IN OUT.tif[tile,bigtiff,compression=lzw]`, or gdal_translate -co TILED=YES"
)


class Windows(Protocol):
    """An image that windows are read from."""

    width: int
    height: int

    def read(self, x: int, y: int, width: int, height: int) -> Array:
        """The stored values of a window within the image: ``[height, width]`` or ``[height, width, C]``."""

    def require_room(self, side: int) -> None:
        """Refuse, with advice, when windows of this side would take more memory than is allowed.

        Raises:
            DecodeError: unsupported.
        """


def open_windows(path: Path, level: int = 0) -> Windows:
    """Open a large image; the last few stay open.

    Args:
        path: The file.
        level: Of a pyramid: 0 is the full size, each further one is smaller.

    Raises:
        DecodeError: When it is no image, or cannot be read in windows.
        OSError: When the file cannot be read.
    """
    status = path.stat()
    return _opened(path, level, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=_OPEN)
def _opened(path: Path, level: int, changed: int, size: int) -> Windows:
    del changed, size  # a file that changed is another one
    with path.open("rb") as file:
        head = file.read(256)
    if head[:4] in _TIFF:
        return _open_tiff(path, level)
    if level:
        raise DecodeError(Reason.UNSUPPORTED, f"only TIFF files have pyramids; tiles.level is {level}")
    if head[:6] == _NPY:
        return _Mapped.of_npy(path)
    return _Whole(path)


def _probe(data: bytes) -> ImageInfo:
    """The header of a file that is decoded whole."""
    try:
        return probe_image(data)
    except DecodeError as error:
        if error.reason is not Reason.DECOMPRESSION_BOMB:
            raise
        raise DecodeError(Reason.UNSUPPORTED, f"{error.detail} that are decoded whole; {_ADVICE}") from None


class _Whole:
    """A file whose format cannot be read in parts: decoded once, if that fits."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        info = _probe(data)
        deep = info.mode.startswith(("I", "F"))
        channels = 1 if deep or info.mode in ("1", "L", "LA", "La") else 3
        if (size := info.width * info.height * channels * (2 if deep else 1)) > PIECES_BYTES:
            raise DecodeError(
                Reason.UNSUPPORTED,
                f"a {info.format} of {info.width}×{info.height} pixels is decoded whole: {size / 2**20:,.0f} MB, at "
                f"most {PIECES_BYTES // 2**20}; {_ADVICE}",
            )
        self.width, self.height = info.width, info.height
        self._array: Array = decode_stored(data) if deep else decode_image(data, channels=channels)

    def read(self, x: int, y: int, width: int, height: int) -> Array:
        return np.ascontiguousarray(self._array[y : y + height, x : x + width])

    def require_room(self, side: int) -> None:
        pass


class _Mapped:
    """An uncompressed array in a file: only the rows of a window are touched.

    Args:
        path: The file.
        dtype: With its byte order.
        shape: Of the array.
        axes: A letter an axis: Y, X, one of S and C (channels); of others the first element is taken.
        offset: Of the first value in the file.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: Sequence[int], axes: str, offset: int) -> None:
        self._path, self._dtype, self._shape, self._axes, self._offset = path, dtype, tuple(shape), axes, offset
        self.height, self.width = self._shape[axes.index("Y")], self._shape[axes.index("X")]

    @classmethod
    def of_npy(cls, path: Path) -> _Mapped:
        with path.open("rb") as file:
            head = file.read(1 << 16)
        shape, dtype = npy_header(head)
        axes = "YX" if len(shape) == 2 else "YXC" if shape[0] > shape[-1] else "CYX"
        offset = path.stat().st_size - int(np.prod(shape)) * dtype.itemsize
        if offset < 0:
            raise DecodeError(Reason.TRUNCATED, f"{path.stat().st_size:,} bytes do not hold {shape} values of {dtype}")
        return cls(path, dtype, shape, axes, offset)

    def read(self, x: int, y: int, width: int, height: int) -> Array:
        # Mapped anew for each window: the pages of the file that were touched are given back at once.
        stored = np.memmap(self._path, self._dtype, "r", self._offset, self._shape)
        place: list[int | slice] = []
        for axis in self._axes:
            window = {"Y": slice(y, y + height), "X": slice(x, x + width), "C": slice(None), "S": slice(None)}
            place.append(window.get(axis, 0))
        found = np.asarray(stored[tuple(place)])
        left = [axis for axis in self._axes if axis in "YXCS"]
        if len(left) == 3:
            found = found.transpose(left.index("Y"), left.index("X"), 3 - left.index("Y") - left.index("X"))
        return np.array(found, dtype=found.dtype.newbyteorder("="), order="C")

    def require_room(self, side: int) -> None:
        pass


class _Pieces:
    """A page of a TIFF, or several that are the channels of one picture, in coded pieces."""

    def __init__(self, path: Path, pages: Sequence[Any]) -> None:
        self._pages, self._first = pages, pages[0].keyframe
        first = self._first
        if any(page.parent.filehandle.path != str(path.absolute()) for page in pages):
            raise DecodeError(Reason.UNSUPPORTED, "a picture in several files, of which this is one")
        if first.imagedepth != 1 or first.dtype is None:
            raise DecodeError(Reason.UNSUPPORTED, "a volume, or values of a kind that no program here knows")
        self.width, self.height = first.imagewidth, first.imagelength
        tiled = first.is_tiled
        self._across = first.tilewidth if tiled else first.imagewidth
        self._down = min(first.tilelength if tiled else first.rowsperstrip, self.height)
        planar = first.planarconfig == 2 and first.samplesperpixel > 1
        self._planes = first.samplesperpixel if planar else 1
        self._samples = 1 if planar else first.samplesperpixel
        self._grid = (-(-self.height // self._down), -(-self.width // self._across))
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._bytes = 0
        self._room = PIECES_BYTES
        self._lock = threading.Lock()
        self._file = path.open("rb")

    def require_room(self, side: int) -> None:
        item = self._samples * self._planes * len(self._pages) * self._first.dtype.itemsize
        rows = (min(side, self.height) // self._down + 2) * self._down  # that a window may touch, whole pieces
        width = (side // self._across + 2) * self._across if self._first.is_tiled else self.width
        if rows * width * item > PIECES_BYTES:
            kind = "tiles" if self._first.is_tiled else "strips"
            raise DecodeError(
                Reason.UNSUPPORTED,
                f"its {kind} of {self._across}×{self._down} pixels take {rows * width * item / 2**20:,.0f} MB for a "
                f"window of {side}, at most {PIECES_BYTES // 2**20}; {_ADVICE}",
            )
        # A band of pieces: windows along it, row by row, find what they share.
        self._room = min(PIECES_BYTES, rows * (self.width + 2 * self._across) * item)

    def read(self, x: int, y: int, width: int, height: int) -> Array:
        every = [(page, plane) for page in range(len(self._pages)) for plane in range(self._planes)]
        planes = [self._plane(page, plane, x, y, width, height) for page, plane in every]
        found = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        return self._meant(found)

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
        data = os.pread(self._file.fileno(), length, offset) if length else None
        if data is not None and len(data) < length:
            raise DecodeError(
                Reason.TRUNCATED, f"piece {number:,} of the TIFF ends after {len(data):,} of {length:,} bytes"
            )
        try:
            piece, _, shape = first.decode(data, number, jpegtables=first.jpegtables, jpegheader=first.jpegheader)
        except Exception as error:
            raise _tiff_error(error) from None
        if piece is None:  # a piece without data: nothing was recorded there
            piece = np.full(shape, first.nodata, dtype=first.dtype)
        down, across = self._down, self._across
        row, column = divmod(number % (self._grid[0] * self._grid[1]), self._grid[1])
        return np.asarray(piece[0, : min(down, self.height - row * down), : min(across, self.width - column * across)])

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
        orientation = first.tags.valueof(274, 1)
        found = orient(found, orientation) if orientation in range(2, 9) else found
        return np.ascontiguousarray(found[..., 0] if found.shape[2] == 1 else found)


def _open_tiff(path: Path, level: int) -> Windows:
    import tifffile

    try:
        file = tifffile.TiffFile(path)
        series = file.series[0]
        levels = series.levels
    except Exception as error:
        raise _tiff_error(error) from None
    if level >= len(levels):
        raise DecodeError(
            Reason.UNSUPPORTED, f"its pyramid has {len(levels)} levels, 0 to {len(levels) - 1}; not {level}"
        )
    chosen = levels[level]
    page: Any = chosen.keyframe
    simple = page.photometric in (1, 2) and not page.extrasamples and page.tags.valueof(274, 1) == 1
    if chosen.dataoffset is not None and simple and page.dtype is not None and page.dtype.kind in "uif":
        _require_plane(chosen)
        return _Mapped(path, page.dtype.newbyteorder(file.byteorder), chosen.shape, chosen.axes, chosen.dataoffset)
    return _Pieces(path, _channel_pages(chosen))


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
