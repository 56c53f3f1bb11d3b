"""The clients' tokens: long-lived, renewed with an overlap in which the old one is still valid.

<run>/tokens.json    mode 0600: {"current": {"key", "made"}, "previous": {"key", "until"} or null, "admin": {"key"}}

The file stays when the server ends, so that a client need not be told a new token after every start. The admin's key
renews tokens and does nothing else.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dinomill.errors import DinomillError, InputError
from dinomill.storage.atomic import atomic_file

logger = logging.getLogger(__name__)

TOKENS = "tokens.json"
_BYTES = 32


class ClientTokens:
    """The tokens that lie in a server's folder; made when there are none.

    Args:
        run: The server's private folder.
        overlap_seconds: How long a token stays valid after it was renewed.
        clock: Seconds since the epoch.

    Raises:
        InputError: When the file there is not one of ours.
    """

    def __init__(self, run: Path, overlap_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.path = run / TOKENS
        self._overlap = overlap_seconds
        self._clock = clock
        self._renewed: Callable[[str], object] = lambda _: None
        self._said = self._read() if self.path.exists() else {}
        if not self._said:
            self._said = {"current": self._new(), "previous": None, "admin": {"key": secrets.token_urlsafe(_BYTES)}}
            self._write(self._said)
        self.path.chmod(0o600)

    @property
    def current(self) -> str:
        """The token that clients are to use."""
        return str(self._said["current"]["key"])

    @property
    def admin(self) -> str:
        """The key that renews tokens."""
        return str(self._said["admin"]["key"])

    def accepts(self, given: str) -> bool:
        """Whether a client's token is valid. Takes the same time whichever token it is not."""
        valid = [self.current]
        previous = self._said["previous"]
        if previous is not None and self._clock() < previous["until"]:
            valid.append(str(previous["key"]))
        return sum(_same(given, one) for one in valid) > 0

    def is_admin(self, given: str) -> bool:
        """Whether it is the admin's key."""
        return _same(given, self.admin)

    def renew(self) -> float:
        """Make a new token; the one before it is valid for the time of the overlap.

        Returns:
            When the old one ends, in seconds since the epoch.

        Raises:
            StorageError: When it cannot be written down: then the one before it stays.
        """
        until = self._clock() + self._overlap
        said = self._said | {"previous": {"key": self.current, "until": until}, "current": self._new()}
        self._write(said)  # first: a token that is in no file is one that no client will ever know
        self._said = said
        try:
            self._renewed(self.current)
        except (DinomillError, OSError) as error:
            logger.warning("the clients' token was renewed, and what repeats it was not: %s", error)
        return until

    def tell(self, renewed: Callable[[str], object]) -> None:
        """Have each new token told to whoever repeats it elsewhere."""
        self._renewed = renewed

    def _new(self) -> dict[str, Any]:
        return {"key": secrets.token_urlsafe(_BYTES), "made": self._clock()}

    def _read(self) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if not (said["current"]["key"] and said["admin"]["key"]):
                raise ValueError("an empty key")
            if said["previous"] is not None:
                float(said["previous"]["until"])
            return said
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} holds no tokens.",
                found=f"{type(error).__name__}: {error}",
                action="remove it; the next start makes new ones",
            ) from None

    def _write(self, said: Mapping[str, Any]) -> None:
        with (
            atomic_file(self.path) as temporary,
            # Private from the first byte on.
            os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file,
        ):
            json.dump(said, file)


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), known.encode())
