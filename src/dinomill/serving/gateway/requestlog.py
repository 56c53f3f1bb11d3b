"""The log of requests: a line of JSON for each, without anything of its content.

<run>/logs/requests.log    16 MB at most, and two older ones

A line has the request's id, when and how it was answered, and by which model: `dinomill lineage` goes on from there.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import time
import uuid
from pathlib import Path

REQUESTS = "requests.log"
_MEGABYTES, _OLDER = 16, 2
_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}")


def request_id(given: str | None) -> str:
    """The id that a client gave its request, when it is one that a log and a header can hold; else a new one."""
    return given if given is not None and _VALID.fullmatch(given) else str(uuid.uuid4())


class _Quiet(logging.handlers.RotatingFileHandler):
    """A full disk fails no request, and fills no terminal."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Go on."""


class RequestLog:
    """Writes a line a request; the file is cut at 16 MB.

    Args:
        folder: Of the logs.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._handler = _Quiet(
            folder / REQUESTS, maxBytes=_MEGABYTES * 2**20, backupCount=_OLDER, encoding="utf-8", delay=True
        )
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, values: dict[str, object]) -> None:
        """Add a line."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = json.dumps({"time": stamp} | values, separators=(",", ":"))
        self._handler.handle(logging.LogRecord("requests", logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
