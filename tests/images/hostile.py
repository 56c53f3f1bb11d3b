"""Files of a few bytes that kept a decoder busy for minutes, or took memory that no pixel asks for."""

from __future__ import annotations

import io
import math
import re
import struct

import numpy as np
from PIL import Image


def jpeg_of_scans(mode: str, side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan, which refines and is all zeros, comes again and again."""
    out = io.BytesIO()
    Image.new(mode, (side, side)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    first_of_last = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda"))
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[first_of_last:end] * scans + data[end:]


def jpeg_of_legal_scans(side: int) -> bytes:
    """A JPEG in colour that codes each bit of each coefficient of each component in a scan of its own, as it may.

    A scan's data say that all blocks end at once.
    """
    blocks = math.ceil(side / 8) ** 2
    # Two codes: 0 and 14 bits end 16,384 blocks and more, 10 ends one.
    table = b"\xff\xc4" + struct.pack(">H", 19 + 2) + b"\x10" + bytes([1, 1]) + bytes(14) + b"\xe0\x00"
    bits = ""
    while blocks >= 16384:
        bits += f"0{min(32767, blocks) - 16384:014b}"
        blocks -= min(32767, blocks)
    bits += "10" * blocks
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, "JPEG", progressive=True, subsampling=0)
    data = out.getvalue()
    head = data[: data.index(b"\xff\xc4", data.index(b"\xff\xc2"))]
    first = data[len(head) :]
    dc = first[: first.index(b"\xff\xc4", first.index(b"\xff\xda"))]
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    scans = b""
    for component in (1, 2, 3):
        for coefficient in range(1, 64):
            for low in range(13, -1, -1):
                high = 0 if low == 13 else low + 1
                header = bytes([1, component, 0, coefficient, coefficient, high << 4 | low])
                scans += b"\xff\xda\x00\x08" + header + coded
    return head + dc + table + scans + b"\xff\xd9"


def jpeg2000(side: int, tile: int | None = None) -> bytes:
    """A grey area of three components."""
    out = io.BytesIO()
    options = {} if tile is None else {"tile_size": (tile, tile)}
    Image.new("RGB", (side, side), (90, 40, 20)).save(out, "JPEG2000", no_jp2=True, **options)
    return out.getvalue()


def with_layers(data: bytes, layers: int) -> bytes:
    """The same, that says it has so many layers."""
    at = data.index(b"\xff\x52") + 6
    return data[:at] + struct.pack(">H", layers) + data[at + 2 :]


def with_precincts(data: bytes, size: int) -> bytes:
    """The same, that says its precincts have 2^(size & 15) x 2^(size >> 4) pixels."""
    at = data.index(b"\xff\x52")
    length, levels = int.from_bytes(data[at + 2 : at + 4], "big"), data[at + 9]
    end = at + 2 + length
    header = struct.pack(">H", length + levels + 1) + bytes([data[at + 4] | 1]) + data[at + 5 : end]
    return data[: at + 2] + header + bytes([size]) * (levels + 1) + data[end:]


def with_small_blocks(data: bytes) -> bytes:
    """The same, that says its blocks have 4 x 4 pixels."""
    at = data.index(b"\xff\x52") + 10
    return data[:at] + bytes(2) + data[at + 2 :]


def bmp_in_runs(width: int, height: int) -> bytes:
    """A BMP whose rows each have a run of one pixel."""
    runs = b"\1\0\0\0" * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + bytes(1024) + runs


def icon_in_runs(side: int) -> bytes:
    """An icon with such a BMP in it."""
    inner = bmp_in_runs(side, side)[14:]
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 8, len(inner), 22) + inner


def text_of_comments(comments: int) -> bytes:
    """A PNM as text, of many empty comments."""
    return b"P3 1000 1000 255\n" + b"#\n" * comments


def tiff_of_one_strip(rows: int, columns: int) -> bytes:
    """A TIFF of floats, of as many strips as rows, which all are the same few bytes."""
    import zlib

    strip = zlib.compress(np.zeros(columns, "<f4").tobytes())
    tags = [
        (256, 4, 1, columns),
        (257, 4, 1, rows),
        (258, 3, 1, 32),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, rows, 0),
        (277, 3, 1, 1),
        (278, 4, 1, 1),
        (279, 4, rows, 0),
        (339, 3, 1, 3),
    ]
    after = 8 + 2 + 12 * len(tags) + 4
    places = {273: after + len(strip), 279: after + len(strip) + 4 * rows}
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, places.get(tag, value)) for tag, kind, count, value in tags
    )
    offsets, lengths = struct.pack("<I", after) * rows, struct.pack("<I", len(strip)) * rows
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip + offsets + lengths


def tiff_of_pages(pages: int) -> bytes:
    """A TIFF of many pages of one pixel."""
    tags = [(256, 4, 1), (257, 4, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 0), (277, 3, 1), (279, 4, 1)]
    size = 2 + 12 * len(tags) + 4 + 1
    made = [b"II*\0" + struct.pack("<I", 8)]
    for number in range(pages):
        end = 8 + (number + 1) * size
        made.append(struct.pack("<H", len(tags)))
        made += [struct.pack("<HHII", tag, kind, 1, end - 1 if tag == 273 else value) for tag, kind, value in tags]
        made.append(struct.pack("<I", end if number + 1 < pages else 0) + b"\x07")
    return b"".join(made)


def jpeg_of_segments(marker: bytes, count: int) -> bytes:
    """A JPEG with many empty segments before its picture."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG")
    return re.sub(rb"^\xff\xd8", lambda _: b"\xff\xd8" + marker * count, out.getvalue())


def icns_of(picture: bytes, kind: bytes = b"ic10") -> bytes:
    """A Mac icon with one picture in it, whatever its size."""
    return b"icns" + struct.pack(">I", 16 + len(picture)) + kind + struct.pack(">I", 8 + len(picture)) + picture


def ico_of(picture: bytes) -> bytes:
    """An icon that says 16 × 16, with one picture in it, whatever its size."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture
