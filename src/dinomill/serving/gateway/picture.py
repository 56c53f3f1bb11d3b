"""A small picture for the trial of a server, made without a library for pictures."""

from __future__ import annotations

import struct
import zlib

_SIDE = 32


def png() -> bytes:
    """A PNG file of 32 by 32 pixels in colour, a gradient."""
    rows = b"".join(
        b"\0" + bytes(value for x in range(_SIDE) for value in (8 * x, 8 * y, 255 - 4 * (x + y))) for y in range(_SIDE)
    )
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(named: tuple[bytes, bytes]) -> bytes:
    name, data = named
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
