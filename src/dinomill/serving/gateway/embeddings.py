"""`POST /v1/embeddings`: the request and the answer that clients of text embeddings speak, for images.

Each input is an image file in base64, or a ``data:`` URL of one; addresses are not fetched. The request is rewritten to
JSON instances for the model server, and its answer to a list of embeddings, as numbers or as base64 of float32.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dinomill.errors import InputError
from dinomill.serving.gateway.upstream import Reply

_BYTES = "application/octet-stream"
BINARY = f"{_BYTES}; dtype=float32"  # what is asked of a server that can answer so
Encoding = Literal["float", "base64"]
# Each input brings one comma of its own and one of a data: URL; a body with many more is made to cost time.
_COMMAS = 64
_PLAIN = re.compile(r"[!#-\[\]-~]+")  # what JSON holds as it is, in bytes as few as characters
_SHORT = 4096  # letters that tell a text; whether all are base64 is seen where they are decoded
_BASE64 = re.compile(r"data:[^,]*,.*|[A-Za-z0-9+/_-]*={0,2}", re.DOTALL | re.IGNORECASE)
_KEYS = {"model", "input", "encoding_format", "dimensions", "user"}
_FORM = '{"model": "…", "input": ["<base64 of an image file, or a data: URL>", …]}'


class Asked(NamedTuple):
    """A request, read."""

    images: list[str]
    encoding: Encoding


def read_embeddings(body: bytes | bytearray, model: str, embed_dim: int, most: int) -> Asked:
    """Read a request.

    Args:
        body: As posted.
        model: The one that is served.
        embed_dim: Its embeddings' width.
        most: Images in one request.

    Raises:
        InputError: When it is not such a request.
    """
    said = _decode(body, most)
    if not isinstance(said, Mapping):
        raise InputError("The request is not a JSON object.", expected=_FORM)
    if unknown := sorted(set(map(str, said)) - _KEYS):
        raise InputError(f"The request has keys that are not known: {', '.join(unknown)[:200]}.", expected=_FORM)
    if said.get("model") not in (None, model):
        raise InputError("There is no such model here.", found=str(said["model"])[:100], expected=model)
    if said.get("dimensions") not in (None, embed_dim):
        raise InputError("Embeddings cannot be shortened.", expected=f"{embed_dim} dimensions")
    if said.get("encoding_format") not in (None, "float", "base64"):
        raise InputError("encoding_format is not one of those that there are.", expected="float or base64")
    encoding: Encoding = "base64" if said.get("encoding_format") == "base64" else "float"
    given = said.get("input")
    if isinstance(given, str | Mapping):
        given = [given]
    if not isinstance(given, list) or not given:
        raise InputError("The request has no input.", expected=_FORM)
    if len(given) > most:
        raise InputError(
            "The request has too many images.",
            found=str(len(given)),
            expected=f"at most {most}",
            action="split it into several requests",
        )
    return Asked([_image(number, one) for number, one in enumerate(given)], encoding)


def _decode(body: bytes | bytearray, most: int) -> Any:
    if body.count(b",") > _COMMAS + 8 * most or body.count(b"[") > _COMMAS or body.count(b"{") > _COMMAS + most:
        raise InputError(
            "The request has more values than one of so many images can have.",
            expected=f"at most {most} images: {_FORM}",
            action="split it into several requests",
        )
    try:
        return json.loads(body)
    except RecursionError:
        raise InputError("The request's JSON cannot be read.", found="it is nested too deeply") from None
    except ValueError as error:
        raise InputError("The request's JSON cannot be read.", found=str(error)[:200], expected=_FORM) from None


def _image(number: int, given: Any) -> str:
    if isinstance(given, Mapping) and len(given) == 1:  # {"image": "…"}, as some write it
        given = given.get("image", given.get("b64"))
    if not isinstance(given, str) or not given:
        raise InputError(f"Input {number} is not a text.", expected="base64 of an image file, or a data: URL")
    if given[:5].lower() != "data:" and ":" in given[:10]:
        raise InputError(
            f"Input {number} is an address, which is not fetched.",
            expected="base64 of an image file, or a data: URL",
            action="send the image itself",
        )
    text: str = given if _PLAIN.fullmatch(given) else "".join(given.split())  # base64 may be broken into lines
    if _PLAIN.fullmatch(text) is None or (" " in given[:_SHORT] and _BASE64.fullmatch(text[:_SHORT]) is None):
        raise InputError(
            f"Input {number} is no base64: images are embedded here, no texts.",
            expected="base64 of an image file, or a data: URL",
        )
    return text


def instances(asked: Asked) -> bytearray:
    """The same for the model server; the images go into it one by one, and are gone from the request afterwards."""
    body = bytearray(b'{"instances": [')
    for number, image in enumerate(asked.images):
        asked.images[number] = ""
        body += b', {"b64": "' if number else b'{"b64": "'
        body += image.encode()
        body += b'"}'
    body += b"]}"
    return body


def render_embeddings(reply: Reply, asked: Asked, model: str) -> bytes:
    """The answer, from the model server's.

    Args:
        reply: ``{"embeddings": [[…], …]}``, or their numbers as bytes, row by row.
        asked: The request.
        model: The one that is served.
    """
    found = _from_bytes(reply.body, asked) if reply.content_type.startswith(_BYTES) else _from_json(reply.body, asked)
    rows = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(found)]
    # Images have no tokens; clients want the keys.
    usage = {"prompt_tokens": 0, "total_tokens": 0, "images": len(rows)}
    answer = {"object": "list", "data": rows, "model": model, "usage": usage}
    return json.dumps(answer, separators=(",", ":")).encode()


def _from_bytes(body: bytes, asked: Asked) -> list[str] | list[list[float]]:
    size = len(body) // len(asked.images)
    rows = [body[start : start + size] for start in range(0, size * len(asked.images), size)]
    if asked.encoding == "base64":
        return [base64.b64encode(row).decode() for row in rows]
    return [list(struct.unpack(f"<{size // 4}f", row)) for row in rows]


def _from_json(body: bytes, asked: Asked) -> list[str] | list[list[float]]:
    vectors: list[list[float]] = json.loads(body)["embeddings"]
    if asked.encoding == "float":
        return vectors
    return [base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() for vector in vectors]


def render_error(status: int, message: str) -> bytes:
    """An error in the shape that these clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()
