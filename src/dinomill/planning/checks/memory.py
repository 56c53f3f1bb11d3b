"""What a check has seen, kept for the next time. It is a convenience: where it cannot be written, nothing is lost."""

from __future__ import annotations

from pathlib import Path

from dinomill.errors import StorageError
from dinomill.storage.atomic import write_text


def remember(path: Path, text: str) -> None:
    """Write a file whole, if that is possible; `places` reports folders that cannot be written."""
    try:
        write_text(path, text)
    except (OSError, StorageError):
        return


def recall(path: Path) -> str | None:
    """A file's text; None when it is not there or damaged."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return None
