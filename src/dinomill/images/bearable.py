"""Files of a few bytes that would keep a decoder busy for minutes, or take memory that no pixel asks for: refused.

The size in a header bounds what most formats cost. These say more, and are counted before anything is decoded:

    JPEG         scans: each goes over all coefficients (36 bytes, 27 ms at 40 megapixels), whatever it brings
    JPEG 2000    layers, precincts and blocks: packets are looked for in all of them (53 kB of them took two minutes,
                 581 bytes 6.6 GB)
    BMP in runs  pixels: Pillow fills each in Python
    PNM          comments, which Pillow looks for again after each; text
    ICO, ICNS    what lies within them, of any size and in any of these ways: their own header says another
    TIFF         pieces: see `require_pieces`
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.jpeg_scans import require_scans

Data = bytes | memoryview

_BOX = b"\x00\x00\x00\x0cjP  "
_STREAM, _SIGNATURE = b"\xff\x4f\xff\x51", b"\r\n\x87\n"
# Wherever they stand: a decoder passes over what it does not know in a way of its own.
_SIZ = re.compile(rb"\xff\x51(..)..(.{32})(..)", re.DOTALL)
_COD = re.compile(rb"\xff\x52\x00[\x0c-\x2d]([\x00-\x07])[\x00-\x04](..)[\x00\x01]([\x00-\x20].{37})", re.DOTALL)
_COC = re.compile(rb"\xff\x53\x00[\x09-\x2b].([\x00\x01])([\x00-\x20].{37})", re.DOTALL)
_SIDES = re.compile(rb"(?:IHDR|ihdr)(.{8})", re.DOTALL)  # of PNG and of JPEG 2000 in boxes
_MOST_PRECINCTS, _MOST_BLOCKS, _MOST_PACKETS = 500_000, 2_000_000, 10_000_000
_MOST_STYLES = 1000  # of tiles that have their own
_MOST_IN_RUNS = 16_000_000  # pixels: 1.5 s
_MOST_COMMENTS, _MOST_TEXT = 1000, 32 * 2**20
_MOST_ICONS = 1024
_MOST_PIECES, _PIECE_VALUES = 65_536, 256  # a piece takes 15 µs; TIFF's smallest tiles have 256 values


def require_bearable(data: Data, max_pixels: int) -> None:
    """Refuse a file that costs more than its pixels do.

    Args:
        data: The file's bytes.
        max_pixels: Of a picture within another, whose header does not say its size.

    Raises:
        DecodeError: decompression_bomb, with what was counted; truncated.
    """
    head = bytes(data[:64])
    if head[:3] == b"\xff\xd8\xff":
        require_scans(data)
    elif head[:8] == _BOX or head[:4] in (_STREAM, _SIGNATURE):
        _require_packets(data)
    elif head[:2] == b"BM":
        _require_short_runs(head[14:])
    elif head[:4] == b"\x00\x00\x01\x00":
        _require_icons(data, max_pixels)
    elif head[:4] == b"icns":
        _require_packets(data)
        _require_sides(data, max_pixels)
    elif re.match(rb"P[123]\s", head):
        _require_short_text(data)
    elif len(head) >= 40 and int.from_bytes(head[:4], "little") in (40, 52, 56, 64, 108, 124):
        _require_short_runs(head)


def require_pieces(pieces: int, values: int) -> None:
    """Refuse a TIFF of so many pieces that each hardly holds anything: their data may be the same few bytes.

    Args:
        pieces: Strips or tiles, of all channels.
        values: In all of them.

    Raises:
        DecodeError: decompression_bomb.
    """
    most = max(_MOST_PIECES, values // _PIECE_VALUES)
    if pieces > most:
        raise _bomb(f"{pieces:,} strips or tiles", most)


def _require_packets(data: Data) -> None:
    """Of JPEG 2000: the most of each kind that its markers ask for, taken of all components."""
    layers, styles = 1, set()
    for found in _every(_COD, data):
        layers = max(layers, int.from_bytes(found[2], "big"))
        styles.add((found[1][0] & 1, found[3]))
    styles |= {(found[1][0], found[2]) for found in _every(_COC, data)}
    if len(styles) > _MOST_STYLES:
        raise _bomb(f"JPEG 2000 of {len(styles):,} styles of coding", _MOST_STYLES)
    for width, height, wide, high, components in sizes_of_jpeg2000(data):
        tiles = -(-width // wide) * -(-height // high) * components
        for own_precincts, style in sorted(styles):  # so that the same is said each time
            counts = list(_of_resolutions(wide, high, bool(own_precincts), style))
            precincts, blocks = tiles * sum(one for one, _ in counts), tiles * sum(one for _, one in counts)
            for count, most, name in (
                (precincts, _MOST_PRECINCTS, "precincts"),
                (blocks, _MOST_BLOCKS, "code blocks"),
                (precincts * layers, _MOST_PACKETS, "packets"),
            ):
                if count > most:
                    raise _bomb(f"JPEG 2000 of {count:,} {name}", most)


class Size(NamedTuple):
    """Of a JPEG 2000, and of its tiles."""

    width: int
    height: int
    wide: int
    high: int
    components: int


def sizes_of_jpeg2000(data: Data) -> Iterator[Size]:
    """Every size that a marker in it says, one pixel a side at least."""
    for found in _every(_SIZ, data):
        components = int.from_bytes(found[3], "big")
        if int.from_bytes(found[1], "big") == 38 + 3 * components and components:
            right, bottom, left, top, wide, high, _, _ = struct.unpack(">8I", found[2])
            width, height = max(right - left, 1), max(bottom - top, 1)
            yield Size(width, height, min(max(wide, 1), width), min(max(high, 1), height), components)


def _every(pattern: re.Pattern[bytes], data: Data) -> Iterator[re.Match[bytes]]:
    """Every match, also those that begin within another."""
    at = 0
    while (found := pattern.search(data, at)) is not None:
        yield found
        at = found.start() + 1


def _of_resolutions(wide: int, high: int, own: bool, style: bytes) -> Iterator[tuple[int, int]]:
    """Precincts and code blocks of a tile's component, resolution by resolution."""
    levels, across, down = style[0], style[1] + 2, style[2] + 2
    sizes = style[5 : 6 + levels] if own else b"\xff" * (levels + 1)
    for resolution, size in enumerate(sizes):
        step = levels - resolution
        columns, rows = -(-wide // 2**step), -(-high // 2**step)
        right, bottom = size & 15, size >> 4
        inner = int(resolution > 0)  # bands of half the size
        block = 2 ** (min(across, max(right - inner, 0)) + min(down, max(bottom - inner, 0)))
        precincts = -(-columns // 2**right) * -(-rows // 2**bottom)
        yield precincts, precincts + columns * rows // block


def _require_short_runs(header: bytes) -> None:
    """Of a BMP, by its header without the file's own."""
    if len(header) < 20 or int.from_bytes(header[:4], "little") < 40:
        return
    width, height, _, _, kind = struct.unpack("<iiHHI", header[4:20])
    if kind in (1, 2) and abs(width * height) > _MOST_IN_RUNS:
        raise _bomb(f"BMP in runs of {abs(width):,}×{abs(height):,} pixels", _MOST_IN_RUNS)


def _require_icons(data: Data, max_pixels: int) -> None:
    icons = int.from_bytes(data[4:6], "little")
    if icons > _MOST_ICONS:
        raise _bomb(f"{icons:,} icons", _MOST_ICONS)
    if len(data) < 6 + 16 * icons:
        raise DecodeError(Reason.TRUNCATED, f"{len(data):,} bytes do not hold a list of {icons:,} icons")
    for number in range(icons):
        start = int.from_bytes(data[18 + 16 * number : 22 + 16 * number], "little")
        header = bytes(data[start : start + 64])
        kind = int.from_bytes(header[:4], "little")
        if kind in (12, 40, 52, 56, 64, 108, 124) and len(header) >= 12:
            _require_short_runs(header)
            sides: tuple[int, int] = struct.unpack(*(("<HH", header[4:8]) if kind == 12 else ("<ii", header[4:12])))
            _require_few_pixels(sides[0], sides[1] // 2, max_pixels)  # the lower half is a mask
    _require_sides(data, max_pixels)


def _require_sides(data: Data, max_pixels: int) -> None:
    """Of all pictures within a file, wherever a header of theirs may stand."""
    for found in _every(_SIDES, data):
        width, height = struct.unpack(">II", found[1])
        _require_few_pixels(width, height, max_pixels)
    for size in sizes_of_jpeg2000(data):
        _require_few_pixels(size.width, size.height, max_pixels)


def _require_few_pixels(width: int, height: int, max_pixels: int) -> None:
    if abs(width * height) > max_pixels:
        raise _bomb(f"a picture of {abs(width):,}×{abs(height):,} pixels within an icon", max_pixels)


def _require_short_text(data: Data) -> None:
    if len(data) > _MOST_TEXT:
        raise _bomb(f"PNM as text, {len(data):,} bytes", _MOST_TEXT)
    comments = bytes(data).count(b"#")
    if comments > _MOST_COMMENTS:
        raise _bomb(f"PNM of {comments:,} comments", _MOST_COMMENTS)


def _bomb(found: str, most: int) -> DecodeError:
    return DecodeError(Reason.DECOMPRESSION_BOMB, f"{found}; at most {most:,}")
