"""Coded pictures that are the tiles or strips of a TIFF: as large as these, before anything is decoded.

A decoder believes the header of the piece, whatever the TIFF says. Of JPEG XR and of LERC within another compression
the header is not read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from dinomill.images.bearable import require_bearable, sizes_of_jpeg2000
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.jpeg_scans import require_scans

# Compressions of TIFF that are pictures by themselves: JPEG; JPEG 2000, LERC, PNG, WebP, JPEG XL. In pieces of others
# any bytes may stand.
_JPEG = (6, 7, 33007, 34892)
_CODED = (*_JPEG, 33003, 33004, 33005, 34712, 34887, 34927, 34933, 50001, 50002, 52546)
_SOI, _PNG, _LERC, _LERC1 = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"Lerc2 ", b"CntZImage "
_JPEG2000 = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ", b"\r\n\x87\n")
_XL, _XL_BOXES = b"\xff\x0a", b"\x00\x00\x00\x0cJXL "
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf](..).(....)(.)", re.DOTALL)
_IHDR = re.compile(rb"IHDR(.{8})", re.DOTALL)
_XL_STREAM = re.compile(rb"(?:jxlc|jxlp.{4})(\xff\x0a.{12})", re.DOTALL)
_XL_SIDE_BITS = (9, 13, 18, 30)
_XL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_MCU = 16  # encoders fill up to whole blocks
_SAMPLES = 4  # that a piece may have though its TIFF has fewer: transparency

Size = tuple[int, int, int]
"""Width, height, samples."""


def require_piece(data: bytes, compression: int, width: int, height: int, samples: int) -> None:
    """Refuse a coded piece that is a larger picture than the tile or strip it should fill, or costs more than that.

    Args:
        data: The piece.
        compression: As TIFF counts them.
        width: Of its tile or strip.
        height: The same.
        samples: Of a pixel.

    Raises:
        DecodeError: decompression_bomb; corrupt, when its size cannot be found.
    """
    if compression not in _CODED:
        return
    if compression in _JPEG:
        require_scans(data)  # also where it is no whole file: its beginning may be in another tag
    else:
        require_bearable(data, width * height)
    sizes = _sizes(data)
    if sizes is None:
        return
    if not sizes:
        raise DecodeError(Reason.CORRUPT, "a coded piece of the TIFF does not say how large it is")
    most = (width + -width % _MCU) * (height + -height % _MCU) * max(samples, _SAMPLES)
    for wide, high, own in sizes:
        if wide * high * own > most:
            raise DecodeError(
                Reason.DECOMPRESSION_BOMB,
                f"a piece of the TIFF holds {wide:,}×{high:,} pixels, its tile or strip {width:,}×{height:,}",
            )


def _sizes(data: bytes) -> list[Size] | None:
    """Every size that a header in the piece says; None where it is no picture that is known here."""
    if data[:2] == _SOI:
        return list(_of_jpeg(data))
    if data[:8] == _PNG:
        return [(*struct.unpack(">II", found[1]), 1) for found in _IHDR.finditer(data)]
    if data.startswith(_JPEG2000):
        return [(size.width, size.height, size.components) for size in sizes_of_jpeg2000(data)]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _of_webp(data[12:42])
    if data[:2] == _XL:
        return [_of_jpeg_xl(data[2:14])]
    if data[:8] == _XL_BOXES:
        return [_of_jpeg_xl(found[1][2:]) for found in _XL_STREAM.finditer(data)]
    if data[:10] == _LERC1 and len(data) >= 26:
        height, width = struct.unpack("<II", data[18:26])
        return [(width, height, 1)]
    return _of_lerc(data) if data[:6] == _LERC else None


def _of_jpeg(data: bytes) -> Iterator[Size]:
    for found in _FRAME.finditer(data):
        height, width = struct.unpack(">HH", found[2])
        if int.from_bytes(found[1], "big") == 8 + 3 * found[3][0]:
            yield width, height, found[3][0]


def _of_webp(chunk: bytes) -> list[Size]:
    kind, content = chunk[:4], chunk[8:]
    if kind == b"VP8X":
        return [(1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little"), 1)]
    if kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return [(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), 1)]
    if kind == b"VP8 " and len(content) >= 10:
        width, height = struct.unpack("<HH", content[6:10])
        return [(width & 0x3FFF, height & 0x3FFF, 1)]
    return []


def _of_jpeg_xl(header: bytes) -> Size:
    bits = int.from_bytes(header, "little")

    def take(count: int) -> int:
        nonlocal bits
        taken, bits = bits & ((1 << count) - 1), bits >> count
        return taken

    small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if small else take(_XL_SIDE_BITS[take(2)]) + 1

    height = side()
    if ratio := take(3):
        of, to = _XL_RATIOS[ratio - 1]
        return height * of // to, height, 1
    return side(), height, 1


def _of_lerc(data: bytes) -> list[Size]:
    sizes = []
    for found in re.finditer(_LERC, data):
        head = data[found.end() : found.end() + 20].ljust(20, b"\xff")
        version = int.from_bytes(head[:4], "little")
        at = 8 if version >= 3 else 4
        rows, columns, deep = struct.unpack("<3I", head[at : at + 12])
        sizes.append((columns, rows, deep if version >= 4 else 1))
    return sizes
