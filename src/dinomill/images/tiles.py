"""Large images as many small ones: where a picture is cut, what a tile is called, and a tile as an image file.

A tile is an item like any file. Its name says where it lies in the picture that it is cut from:

    slides/a.tif#y000512-x001024-s256        256 pixels a side, at (1024, 512); `#l1-y…`: of the pyramid's level 1
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dinomill.config import Config

_NAME = re.compile(r"(?P<parent>.+)#(?:l(?P<level>\d+)-)?y(?P<y>\d{6,})-x(?P<x>\d{6,})-s(?P<side>\d+)", re.DOTALL)
_STORED = 65_535  # bytes that a block of deflate holds when nothing is compressed


class TileConfig(Config):
    """How large images are cut into tiles."""

    side: int = Field(ge=8, le=4096, description="pixels a side of a tile")
    stride: int | None = Field(
        default=None, ge=1, description="pixels from one tile to the next; null: `side`, so that tiles do not overlap"
    )
    border: Literal["leave_out", "shift"] = Field(
        default="leave_out",
        description="what does not fill a tile at the right and at the bottom is left out, or the last tile is shifted "
        "inward and overlaps the one before it",
    )
    level: int = Field(default=0, ge=0, description="of a TIFF pyramid: 0 is the full size, each further one smaller")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stride is not None and self.stride * 16 < self.side:
            raise ValueError(f"stride {self.stride}: every pixel would be in more than 256 tiles; at least side / 16")
        return self

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of so many pixels."""
        found = list(range(0, length - self.side + 1, self.stride or self.side))
        if self.border == "shift" and found and found[-1] + self.side < length:
            found.append(length - self.side)
        return found

    def places(self, width: int, height: int) -> Iterator[tuple[int, int]]:
        """Left and top of every tile of a picture, row by row."""
        columns = self.starts(width)
        return ((x, y) for y in self.starts(height) for x in columns)


class Tile(NamedTuple):
    """A window of a picture."""

    parent: str  # path of the picture in its source
    x: int
    y: int
    side: int
    level: int = 0

    @property
    def name(self) -> str:
        """Unique in the source; names in order are tiles row by row."""
        level = f"l{self.level}-" if self.level else ""
        return f"{self.parent}#{level}y{self.y:06d}-x{self.x:06d}-s{self.side}"

    @classmethod
    def of(cls, name: str) -> Tile:
        """The tile of that name."""
        found = _NAME.fullmatch(name)
        assert found, f"no tile's name: {name}"
        return cls(found["parent"], int(found["x"]), int(found["y"]), int(found["side"]), int(found["level"] or 0))


def picture_of(source: str, parent: str) -> Path:
    """The file that tiles of a source are cut from: in its folder, named by its manifest, or the source itself."""
    path = Path(source)
    if path.suffix in (".parquet", ".csv"):
        return path.parent / parent
    return Path(os.path.join(source, parent)) if path.is_dir() else path  # noqa: PTH118 (a name may begin with ./)


def read_tile(source: str, name: str) -> bytes:
    """A tile as the bytes of an image file, the same each time.

    Raises:
        DecodeError: When the picture is damaged there.
        OSError: When it cannot be read.
    """
    from dinomill.images.windows import open_windows

    tile = Tile.of(name)
    picture = open_windows(picture_of(source, tile.parent), tile.level)
    picture.require_room(tile.side)
    return encode_tile(picture.read(tile.x, tile.y, tile.side, tile.side))


def encode_tile(pixels: npt.NDArray[Any]) -> bytes:
    """PNG without compression where PNG holds such values, else ``.npy``: no library's version changes a byte of it."""
    colours = pixels.shape[2] if pixels.ndim == 3 else 1
    if not (pixels.dtype == np.uint8 and colours in (1, 3)) and not (pixels.dtype == np.uint16 and colours == 1):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
        return buffer.getvalue()
    height, width = pixels.shape[:2]
    rows = (
        np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"), copy=False))
        .view(np.uint8)
        .reshape(height, -1)
    )
    raw = np.concatenate([np.zeros((height, 1), dtype=np.uint8), rows], axis=1).tobytes()  # no row is filtered
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, 2 if colours == 3 else 0, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), _chunk(b"IDAT", _deflated(raw)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def compressed(data: bytes) -> bytes:
    """A tile as it is stored for good: a PNG compressed, anything else as it is."""
    from PIL import Image

    if not data.startswith(b"\x89PNG"):
        return data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _deflated(raw: bytes) -> bytes:
    """A zlib stream that holds the bytes as they are."""
    parts = [b"\x78\x01"]
    for start in range(0, len(raw), _STORED):
        block = raw[start : start + _STORED]
        parts += [struct.pack("<BHH", start + _STORED >= len(raw), len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, struct.pack(">I", zlib.adler32(raw))])
