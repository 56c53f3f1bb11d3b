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
