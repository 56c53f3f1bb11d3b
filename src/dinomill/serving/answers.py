"""What a server answers: JSON, or bytes for who takes those.

Accept: application/json (or none, or */*)                       {"embedding": [...]}
Accept: application/octet-stream; dtype=float32 (or float16)     little-endian numbers [N, E], row by row
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.serving.views import View

Form = Literal["json", "float32", "float16"]
BINARY = "application/octet-stream"
JSON = "application/json"
_NEVER = re.compile(r"0(\.0{0,3})?")  # as a q: what is not taken
_PLAIN = ("", "*/*", "application/*", JSON, "text/html")


def negotiate(accept: str | None) -> Form:
    """The form of an answer, by the request's ``Accept``: the first of its kinds that is known and not ruled out.

    Raises:
        InputError: When none is known.
    """
    for kind in (accept or "").lower().split(","):
        name, *parameters = (part.strip() for part in kind.split(";"))
        told = dict(part.split("=", 1) for part in parameters if "=" in part)
        if _NEVER.fullmatch(told.get("q", "")):
            continue
        if name in _PLAIN:
            return "json"
        if name == BINARY:
            dtype = told.get("dtype", "float32").strip('"')
            if dtype == "float16":
                return "float16"
            if dtype == "float32":
                return "float32"
            raise InputError("There is no such type of number.", expected="float32 or float16")
    raise InputError(
        "There is no answer in a form that is accepted.", expected=f"{JSON}, or {BINARY}; dtype=float32 or float16"
    )


def as_bytes(vectors: Sequence[Floats], form: Form) -> bytes:
    """Embeddings as little-endian numbers, row by row.

    Raises:
        InputError: When a number is too large for float16.
    """
    rows = np.stack(vectors)
    with np.errstate(over="ignore"):  # looked at below
        found = rows.astype("<f2" if form == "float16" else "<f4")
    if not np.isfinite(found).all():
        raise InputError("An embedding does not fit into float16.", action="ask for float32, or for normalise")
    return found.tobytes()


def as_json(seen: Mapping[View, Any]) -> dict[str, Any]:
    """One image's views: arrays as lists, the picture as base64 of a PNG."""
    found: dict[str, Any] = {}
    for view, value in seen.items():
        if isinstance(value, np.ndarray):
            found[view] = value.tolist()
        elif isinstance(value, bytes):
            found[view] = base64.b64encode(value).decode()
        else:
            found[view] = value
    return found
