"""What a hostile client sends, and what has to come of it: the requests of hostile.py."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

_TIMEOUT = 120.0
_MEGABYTE = 2**20
GONE = 0  # the status of who did not wait for an answer


class Target(NamedTuple):
    """Where requests go."""

    port: int
    path: str
    token: str


class Seen(NamedTuple):
    """An answer: its status (GONE: none was waited for), its body, and the reason phrase."""

    status: int
    body: bytes = b""
    phrase: str = ""

    def json(self) -> Any:
        """The body, or None where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def reason(self) -> str:
        """What was told: the handler's words, TorchServe's, or HTTP's own."""
        found = self.json()
        if isinstance(found, dict):
            return str(found.get("error") or found.get("message") or "")
        return self.body.decode(errors="replace") or self.phrase


class Kind(NamedTuple):
    """A kind of request: how it is sent, and the statuses that are right; 200 has to be the picture's embedding."""

    name: str
    send: Callable[[Target, random.Random, bytes], Seen]
    right: tuple[int, ...]


def ask(target: Target, body: bytes, headers: Mapping[str, str] | None = None) -> Seen:
    """Post a body, as an honest client does."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=_TIMEOUT)
    try:
        connection.request("POST", target.path, body=body, headers=_authorised(target) | dict(headers or {}))
        answer = connection.getresponse()
        return Seen(answer.status, answer.read(), answer.reason)
    finally:
        connection.close()


def instances(images: Sequence[bytes]) -> bytes:
    """The JSON request of several images."""
    return json.dumps({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}).encode()


def _authorised(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.token}"}


def _posting(make: Callable[[random.Random, bytes], bytes], **headers: str) -> Callable[..., Seen]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda target, chance, image: ask(target, make(chance, image), named)


def _truncated(chance: random.Random, image: bytes) -> bytes:
    return image[: chance.randrange(20, len(image) * 3 // 4)]


def _damaged(chance: random.Random, image: bytes) -> bytes:
    """A picture with a hole in its head; the first bytes still say what it was."""
    return image[:4] + chance.randbytes(600) + image[604:]


def _wrong_type(chance: random.Random, _image: bytes) -> bytes:
    return chance.choice(
        [
            b"%PDF-1.7\n" + chance.randbytes(2000),
            b"<!doctype html><title>no picture</title>",
            b"PK\x03\x04" + chance.randbytes(500),
            b"\x1f\x8b\x08" + chance.randbytes(500),
            b"\x7fELF" + bytes(2000),
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            b"../../../../etc/passwd",
            chance.randbytes(5000),
        ]
    )


def _nested(chance: random.Random, _image: bytes) -> bytes:
    depth = chance.choice([5_000, 100_000, 500_000])
    opening = chance.choice([b"[", b'{"a":'])
    return b'{"instances": ' + opening * depth


def _odd_json(chance: random.Random, _image: bytes) -> bytes:
    found: list[object] = [
        {"instances": "file:///etc/passwd"},
        {"instances": [{"b64": 5}]},
        {"instances": [{"url": "http://127.0.0.1:1/x.jpg"}]},
        {"instances": [{"b64": "file:///etc/passwd"}]},
        {"instances": []},
        {"instances": [{"b64": "AAAA"}] * 1000},
        {"instances": [{"b64": "data:text/html;base64,AAAA"}]},
        {"images": ["/etc/passwd"]},
    ]
    return json.dumps(chance.choice(found)).encode()


def bomb(chance: random.Random, _image: bytes) -> bytes:
    """Pictures of a few bytes or kilobytes that want gigabytes, or say so."""
    side = chance.choice([12_000, 60_000, 2**31 - 1])
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (side, side, 3)})
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 5)
    for tag, kind, value in ((256, 4, side), (257, 4, side), (258, 3, 32), (277, 3, 1), (339, 3, 3)):
        tiff += struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, 1, *((value, 0) if kind == 3 else (value,)))
    return chance.choice([_png(side, side), array.getvalue() + bytes(64), tiff + bytes(64), _png(_LONG, 1)])


def costly(chance: random.Random, _image: bytes) -> bytes:
    """Pictures within every limit of size that kept a decoder busy for minutes, or made it take gigabytes."""
    return chance.choice(COSTLY)(chance)


def _of_scans(chance: random.Random) -> bytes:
    """A progressive JPEG whose last scan comes 3,000 times."""
    out = io.BytesIO()
    Image.new(chance.choice(["CMYK", "RGB", "L"]), (2000, 2000)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    end = data.rindex(b"\xff\xd9")
    last = data[data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")) : end]
    return data[:end] + last * 3000 + data[end:]


def _of_packets(chance: random.Random) -> bytes:
    """JPEG 2000 that says it has 65,535 layers, or precincts of 4 x 4 pixels."""
    out = io.BytesIO()
    Image.new("RGB", (2000, 2000), (90, 40, 20)).save(out, "JPEG2000", no_jp2=True, tile_size=(64, 64))
    data = out.getvalue()
    at = data.index(b"\xff\x52")
    if chance.random() < 0.5:
        return data[: at + 6] + b"\xff\xff" + data[at + 8 :]
    length, levels = int.from_bytes(data[at + 2 : at + 4], "big"), data[at + 9]
    style = struct.pack(">H", length + levels + 1) + b"\x01" + data[at + 5 : at + 2 + length]
    return data[: at + 2] + style + b"\x22" * (levels + 1) + data[at + 2 + length :]


def _in_runs(_chance: random.Random) -> bytes:
    """A BMP of 6,300 rows, each of one pixel and the end of the row."""
    runs, side = b"\1\0\0\0" * 6300 + b"\0\1", 6300
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(1024) + runs


def _of_comments(_chance: random.Random) -> bytes:
    """A PNM as text, of a million comments."""
    return b"P3 1000 1000 255\n" + b"#\n" * 1_000_000


def _of_strips(_chance: random.Random) -> bytes:
    """A TIFF of 800,000 rows of floats, each the same strip of a few bytes."""
    rows, strip = 800_000, zlib.compress(bytes(4))
    tags = [(256, 4, 1), (257, 4, rows), (258, 3, 32), (259, 3, 8), (262, 3, 1), (273, 4, 0), (277, 3, 1), (278, 4, 1)]
    tags += [(279, 4, 0), (339, 3, 3)]
    after = 8 + 2 + 12 * len(tags) + 4
    places = {273: after + len(strip), 279: after + len(strip) + 4 * rows}
    found = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, kind, value in tags:
        found += struct.pack("<HHII", tag, kind, rows if tag in places else 1, places.get(tag, value))
    offsets, lengths = struct.pack("<I", after) * rows, struct.pack("<I", len(strip)) * rows
    return found + bytes(4) + strip + offsets + lengths


COSTLY = (_of_scans, _of_packets, _in_runs, _of_comments, _of_strips)
_LONG = 170_000_000


def _png(width: int, height: int) -> bytes:
    """A PNG whose header tells a size that its few bytes of pixels do not have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(2**16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def thin_picture() -> bytes:
    """20,000 x 1 pixels: a real picture, which is embedded."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1, 20_000, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def _connect(target: Target, length: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", target.port), timeout=_TIMEOUT)
    head = f"POST {target.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    one.sendall(
        (head + "".join(f"{name}: {value}\r\n" for name, value in _authorised(target).items()) + "\r\n").encode()
    )
    return one


def _slow(target: Target, chance: random.Random, image: bytes) -> Seen:
    """A whole picture, a little at a time: nobody is in a hurry, and it is answered."""
    with _connect(target, len(image)) as one:
        step = len(image) // 12 + 1
        for start in range(0, len(image), step):
            one.sendall(image[start : start + step])
            time.sleep(chance.uniform(0.1, 0.4))
        answer = http.client.HTTPResponse(one)
        answer.begin()
        return Seen(answer.status, answer.read(), answer.reason)


def _dropped(target: Target, chance: random.Random, image: bytes) -> Seen:
    """Gone in the middle, or before the answer; with a reset, half of the time."""
    with _connect(target, len(image)) as one:
        one.sendall(image[: chance.choice([0, len(image) // 2, len(image)])])
        time.sleep(chance.choice([0.0, 0.01, 0.5]))
        if chance.random() < 0.5:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return Seen(GONE)


def _never_whole(target: Target, chance: random.Random, image: bytes) -> Seen:
    """More is announced than comes."""
    with _connect(target, len(image) + 1000) as one:
        one.sendall(image)
        time.sleep(chance.uniform(1, 4))
    return Seen(GONE)


def _huge(target: Target, _chance: random.Random, _image: bytes) -> Seen:
    """50 MB: refused by what it announces; whether the refusal is read before the connection breaks is chance."""
    with _connect(target, 50 * _MEGABYTE) as one:
        try:
            for _ in range(50):
                one.sendall(bytes(_MEGABYTE))
        except OSError:
            pass  # closed in the middle; the answer may still lie there
        try:
            answer = http.client.HTTPResponse(one)
            answer.begin()
            return Seen(answer.status, answer.read(), answer.reason)
        except (OSError, http.client.HTTPException):
            return Seen(413, phrase="connection closed")


KINDS = (
    Kind("truncated", _posting(_truncated), (400,)),
    Kind("damaged", _posting(_damaged), (200, 400)),
    Kind("bomb", _posting(bomb), (400,)),
    Kind("costly", _posting(costly), (400,)),
    Kind("20,000 x 1", _posting(lambda _chance, _image: thin_picture()), (200,)),
    Kind("wrong type", _posting(_wrong_type), (400,)),
    Kind("nested JSON", _posting(_nested, Content_Type="application/json"), (400,)),
    Kind("odd JSON", _posting(_odd_json, Content_Type="application/json"), (400,)),
    Kind("0 bytes", _posting(lambda _chance, _image: b""), (400,)),
    Kind("50 MB", _huge, (413,)),
    Kind("says it is JSON", _posting(lambda _chance, image: image, Content_Type="application/json"), (200,)),
    Kind("says it is gzip", _posting(lambda _chance, image: image, Content_Encoding="gzip"), (400,)),
    Kind(
        "says it is a form",
        _posting(lambda _c, _i: b"a=1&b=2", Content_Type="application/x-www-form-urlencoded"),
        (400,),
    ),
    Kind(
        "says it is a form, and is none",
        _posting(lambda _chance, image: image, Content_Type="application/x-www-form-urlencoded"),
        (400,),
    ),
    Kind("slow", _slow, (200,)),
    Kind("dropped", _dropped, (GONE,)),
    Kind("never whole", _never_whole, (GONE,)),
    Kind(
        "wrong token",
        lambda target, chance, image: ask(target._replace(token=chance.randbytes(8).hex()), image),
        (400, 401, 403),
    ),
)
