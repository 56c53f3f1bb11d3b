"""Whether a file or a folder can be written: asked before the work whose result goes into it."""

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
    _try_beside(output)


def require_place(folder: Path) -> None:
    """Refuse a place where a folder cannot be made, or be replaced as a whole.

    Raises:
        InputError: When there is no folder to make it in.
        StorageError: When it cannot be made there, or something else than a folder is there.
    """
    if folder.is_dir():
        if os.path.ismount(folder):
            raise StorageError(
                f"Cannot write {printable(folder)}: it is a disk of its own, which cannot be replaced.",
                action="name a folder in it",
            )
        _try_beside(folder)
        return
    if os.path.lexists(folder):
        raise StorageError(
            f"Cannot write {printable(folder)}: something else is there.",
            expected="a folder, or nothing",
            action="name another place",
        )
    require_writable(folder)


def _try_beside(output: Path) -> None:
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
