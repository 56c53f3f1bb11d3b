"""Addresses without what is secret in them: for messages, logs, and what is recorded of settings."""

from __future__ import annotations

import re

# A user with a password in which a slash stands as it is, which SQLAlchemy takes; digits would be a port.
_UNQUOTED = re.compile(r"://[^/?#@\s:]*:(?!\d+(?:[/?#]|$))[^@\s]*@")
# All up to the last `@` before the path: a password may hold one.
_USER = re.compile(r"://[^/?#\s]*@")
# PostgreSQL's `password` and `sslpassword`, tokens, signed addresses of S3 and Azure.
_QUERY = re.compile(
    r"([?&;][^=?&;#\s]*(?:password|passwd|pwd|passphrase|secret|token|credential|signature|api_?key|access_?key)"
    r"[^=?&;#\s]*=|[?&;]sig=)[^&;#\s'\")]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with the users, passwords and tokens of the addresses in it left out."""
    text = _USER.sub("://…@", _UNQUOTED.sub("://…@", text))
    return _QUERY.sub(r"\1…", text)


def has_secret(text: str) -> bool:
    """Whether an address in the text has a user, a password or a token in it."""
    return redact(text) != text
