"""Files of pictures of one row or one column, made without their pixels: a PNG of zeros, by its chunks."""

from __future__ import annotations

import struct
import zlib

_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}  # by PNG's type of colour
_ZEROS = bytes(1 << 22)


def png(width: int, height: int, colour: int = 2, bits: int = 8) -> bytes:
    """A PNG of zeros.

    Args:
        width: Pixels.
        height: Pixels.
        colour: 0 grey, 2 colour, 4 and 6 the same with transparency.
        bits: A sample.
    """
    compress = zlib.compressobj(1)
    left, coded = (1 + width * _SAMPLES[colour] * bits // 8) * height, []
    while left:
        coded.append(compress.compress(_ZEROS[:left]))
        left -= min(left, len(_ZEROS))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"".join([*coded, compress.flush()])), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
