"""Whether a file can be written: asked before the work whose result goes into it."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

from dinomill.errors import InputError, StorageError


def require_writable(output: Path) -> None:
    """Refuse a place that cannot be written to, before minutes are spent on what goes into it.

    A folder that is not there is not made: more often than not it is a slip of the pen.

    Raises:
        InputError: When there is no such folder.
        StorageError: When it cannot be written to, or the file is a folder.
    """
    # What lies in the way of it is said by the system below.
    missing = next(
        (one for one in (output.absolute().parent, *output.absolute().parents) if os.path.lexists(one)), None
    )
    if missing is not None and missing.is_dir() and missing != output.absolute().parent:
        raise InputError(
            f"There is no folder {printable(output.parent)} for {printable(output.name)}.",
            expected="a folder that is there",
            action=f"make it (mkdir -p {shlex.quote(printable(output.parent))}), or name another place",
        )
    if output.is_dir():
        raise StorageError(
            f"Cannot write {printable(output)}: it is a folder.", expected="a file", action="name a file in it"
        )
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise StorageError(
            f"Cannot write {printable(output)}: {error.strerror}.", action="name a place that this user may write to"
        ) from error


def printable(path: Path | str) -> str:
    """A path as text that any terminal takes: odd bytes and control characters escaped."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
