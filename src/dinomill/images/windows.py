"""Windows of large images, read without decoding the whole: TIFF of any layout, ``.npy``, and what fits into memory.

A TIFF lies in pieces, tiles or strips, each coded by itself. A window needs the pieces that it touches; decoded ones
are kept until newer ones displace them, so that windows in reading order decode each piece about once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from dinomill.images import tiff
from dinomill.images.array_files import npy_header
from dinomill.images.decode import decode_image, probe_image, stored_values
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.image_info import ImageInfo

Array = npt.NDArray[Any]

_OPEN = 2  # files that are kept open, each with its pieces
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_NPY = b"\x93NUMPY"


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
@tiff.damage_is_named
def _opened(path: Path, level: int, changed: int, size: int) -> Windows:
    del changed, size  # a file that changed is another one
    with path.open("rb") as file:
        head = file.read(256)
    if head[:4] in _TIFF:
        series, order = tiff.open_tiff(path, level)
        if not tiff.is_contiguous(series):
            return tiff.pieces_of(path, series)
        return _Mapped(path, series.keyframe.dtype.newbyteorder(order), series.shape, series.axes, series.dataoffset)
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
        raise DecodeError(Reason.UNSUPPORTED, f"{error.detail} that are decoded whole; {tiff.ADVICE}") from None


class _Whole:
    """A file whose format cannot be read in parts: decoded once, if that fits."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        info = _probe(data)
        deep = info.mode.startswith(("I", "F"))
        channels = 1 if deep or info.mode in ("1", "L", "LA", "La") else 3
        if (size := info.width * info.height * channels * (2 if deep else 1)) > tiff.PIECES_BYTES:
            raise DecodeError(
                Reason.UNSUPPORTED,
                f"a {info.format} of {info.width}×{info.height} pixels is decoded whole: {size / 2**20:,.0f} MB, at "
                f"most {tiff.PIECES_BYTES // 2**20}; {tiff.ADVICE}",
            )
        self.width, self.height = info.width, info.height
        stored = stored_values(data)
        self._array: Array = decode_image(data, channels=channels) if stored is None else stored
        if self._array.ndim == 3 and self._array.shape[2] == 1:
            self._array = self._array[..., 0]

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
        order: By rows or by columns.

    Raises:
        DecodeError: truncated.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        axes: str,
        offset: int,
        order: Literal["C", "F"] = "C",
    ) -> None:
        self._path, self._dtype, self._shape, self._axes, self._offset = path, dtype, tuple(shape), axes, offset
        self._order: Literal["C", "F"] = order
        size = path.stat().st_size
        if offset < 0 or offset + int(np.prod(self._shape)) * dtype.itemsize > size:
            raise DecodeError(Reason.TRUNCATED, f"{size:,} bytes do not hold {self._shape} values of {dtype}")
        self.height, self.width = self._shape[axes.index("Y")], self._shape[axes.index("X")]

    @classmethod
    def of_npy(cls, path: Path) -> _Mapped:
        with path.open("rb") as file:
            head = file.read(1 << 16)
        shape, dtype, order = npy_header(head)
        axes = "YX" if len(shape) == 2 else "YXC" if shape[0] > shape[-1] else "CYX"
        offset = path.stat().st_size - int(np.prod(shape)) * dtype.itemsize
        return cls(path, dtype, shape, axes, offset, order)

    @tiff.damage_is_named
    def read(self, x: int, y: int, width: int, height: int) -> Array:
        # Mapped anew for each window: the pages of the file that were touched are given back at once.
        stored = np.memmap(self._path, self._dtype, "r", self._offset, self._shape, self._order)
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
