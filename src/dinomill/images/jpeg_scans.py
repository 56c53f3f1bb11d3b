"""How much work the scans of a JPEG are, by its markers alone: a picture may be coded in any number of them."""

from __future__ import annotations

import re
from typing import NamedTuple

from dinomill.images.decode_error import DecodeError, Reason

Data = bytes | memoryview

_SCAN = re.compile(rb"\xff\xda\x00")  # each header of a scan begins so, and little else
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # but those that stand among coded pixels
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_SOS, _EOI = 0xDA, 0xD9
_FEW = 24  # scans that need not be looked at: encoders write 10 to 18
# How often a picture's values may be gone over, each channel by itself: encoders ask for 18 to 30 times.
_MOST_TIMES, _ALWAYS = 100, 64_000_000
_MOST_SEGMENTS, _MOST_FILLING = 10_000, 2**16


class _Frame(NamedTuple):
    """The picture: its pixels, its components, and the values of each of these by its name, which may come twice."""

    pixels: int
    components: int
    progressive: bool
    values: dict[int, int]


def require_scans(data: Data) -> None:
    """Refuse a JPEG whose scans go over its values too often, or that hides them behind empty segments.

    Raises:
        DecodeError: decompression_bomb, with what was counted.
    """
    frame: _Frame | None = None
    gone_over = segments = filling = 0
    position = 2
    coded = False  # what follows the header of a scan is no filling
    while (found := _MARKER.search(data, position)) is not None:
        start, kind = found.start(), found[0][1]
        filling += 0 if coded else start - position
        segments += 1
        if segments > _MOST_SEGMENTS or filling > _MOST_FILLING:
            count = f"{segments:,} segments" if segments > _MOST_SEGMENTS else f"{filling:,} bytes between segments"
            raise DecodeError(Reason.DECOMPRESSION_BOMB, f"a JPEG of {count}")
        if kind == _EOI:
            return
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        content = bytes(data[start + 4 : start + 2 + length]) if kind in _FRAMES or kind == _SOS else b""
        if kind in _FRAMES:
            frame = frame or _frame(kind, content)
        coded = kind == _SOS
        if coded:
            components = content[1 : 1 + 2 * content[0] : 2] if content else b""
            if not gone_over and _is_simple(frame, components, data):
                return
            gone_over += _values(frame, components)
            _require_few(gone_over, frame)
        position = start + 2 + max(length, 2)


def _is_simple(frame: _Frame | None, components: bytes, data: Data) -> bool:
    """Whether the first scan is the only one, or they are few: most files are not looked at any further."""
    if frame is not None and not frame.progressive and len(components) == frame.components:
        return True
    return sum(1 for _ in _SCAN.finditer(data)) <= _FEW


def _frame(kind: int, content: bytes) -> _Frame | None:
    if len(content) < 6 or len(content) < 6 + 3 * content[5]:
        return None
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    told = [content[6 + 3 * number : 9 + 3 * number] for number in range(content[5])]
    across = max((one[1] >> 4 for one in told), default=1) or 1
    down = max((one[1] & 15 for one in told), default=1) or 1
    values: dict[int, int] = {}
    for one in told:
        own = -(-width * (one[1] >> 4) // across) * -(-height * (one[1] & 15) // down)
        values[one[0]] = max(own, values.get(one[0], 0))
    return _Frame(width * height, len(told), kind in _PROGRESSIVE, values)


def _values(frame: _Frame | None, components: bytes) -> int:
    if frame is None:
        return 0
    return sum(frame.values.get(component, frame.pixels) for component in components)


def _require_few(gone_over: int, frame: _Frame | None) -> None:
    if frame is not None and gone_over > max(_MOST_TIMES * frame.pixels, _ALWAYS):
        raise DecodeError(
            Reason.DECOMPRESSION_BOMB,
            f"a JPEG whose scans go over {frame.pixels:,} pixels more than {_MOST_TIMES} times",
        )
