"""What a request's body is, by its first bytes: clients say what they like in its Content-Type."""

from __future__ import annotations

import re

# Editors and some programs write a byte order mark before JSON; no image begins so.
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{")


def is_json(body: bytes | bytearray) -> bool:
    """Whether it begins as an object of JSON; nothing of it is copied."""
    return _OBJECT.match(body) is not None
