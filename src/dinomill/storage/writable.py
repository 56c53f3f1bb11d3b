"""Whether a file can be written: asked before the work whose result goes into it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dinomill.errors import StorageError


def require_writable(output: Path) -> None:
    """Make the folder of a file that will be written, and write there.

    Raises:
        StorageError: When that cannot be, or the file is a folder.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
        refused = "is a folder" if output.is_dir() else None
    except OSError as error:
        refused = error.strerror
    if refused:
        raise StorageError(
            f"Cannot write {printable(output)}: {refused}.", action="name a place that this user may write to"
        )


def printable(path: Path | str) -> str:
    """A path as text that any terminal takes: odd bytes and control characters escaped."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
