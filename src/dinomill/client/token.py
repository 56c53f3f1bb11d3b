"""The client's token: given, or in a file that is read again when the server no longer takes what was in it."""

from __future__ import annotations

import json
from pathlib import Path

from dinomill.errors import InputError


class Token:
    """A token that may be renewed.

    Args:
        given: The token itself.
        file: Where it lies: the server's ``tokens.json``, or a file with the token alone.

    Raises:
        InputError: When there is neither or both, or the file has none.
    """

    def __init__(self, given: str | None, file: Path | None) -> None:
        if (given is None) == (file is None):
            raise InputError("The client needs a token.", expected="either token=… or token_file=…")
        self._file = file
        self.value = given.strip() if given is not None else self._read()
        if not self.value or not self.value.isascii() or not self.value.isprintable():
            raise InputError("The token is not one.", expected="what `current` says in tokens.json")

    def renewed(self, used: str) -> bool:
        """Whether there is another one than was used by now; takes it."""
        if self._file is not None and self.value == used:
            self.value = self._read()
        return self.value != used

    def _read(self) -> str:
        assert self._file is not None
        try:
            text = self._file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise InputError(
                f"The token cannot be read from {self._file}.",
                found=str(error),
                action="is the server running? `dinomill serve` prints where its tokens lie",
            ) from None
        if not text.startswith("{"):
            return text
        try:
            return str(json.loads(text)["current"]["key"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self._file} holds no token.", expected='{"current": {"key": "…"}, …}') from None
