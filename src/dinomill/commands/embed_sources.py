"""What `dinomill embed` is asked to look at: files, and why some of them cannot be images at all."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dinomill.errors import InputError
from dinomill.images.sidecars import is_passed_over, sidecar_kind
from dinomill.storage.writable import printable


class LeftOut(NamedTuple):
    """A file without an embedding."""

    path: str
    reason: str  # short and countable
    detail: str


class Candidate(NamedTuple):
    """A file that may be an image, as it was when it was looked at."""

    path: str
    size: int  # bytes
    modified: int  # nanoseconds


class Sources(NamedTuple):
    """What the sources hold."""

    files: list[Candidate]
    left_out: list[LeftOut]
    passed_over: Counter[str]  # files beside images that are none, by kind: .json, Thumbs.db, hidden …


def candidates(sources: Sequence[Path]) -> Sources:
    """Every file of the sources, folders in the order of their names.

    Links to files are followed, links to folders are not: there are no loops. Each file comes once. What folders hold
    beside images (``images.sidecars``) is counted and no more, as in a pool; a file that is named itself is looked at.
    Paths are absolute and without ``..``, so that a folder that is named in two ways is looked at once; links stay.

    Raises:
        InputError: When a source does not exist.
    """
    found: dict[str, Candidate | LeftOut] = {}
    passed_over: dict[str, str] = {}  # its kind, by path
    for source in sources:
        if not os.path.lexists(source):
            far = re.search(r"(?:^|/)(s3|gs|https?):/", str(source))  # a path has lost one of the two slashes
            raise InputError(
                f"There is no file or folder {shown(str(source))}.",
                expected="images or folders of this machine" if far else None,
                action="download them first (`aws s3 cp --recursive`), and give the folder" if far else "correct it",
            )
        place = _straight(source)
        inside = _walk(place, passed_over) if source.is_dir() else iter([_look(place)])
        for one in inside:
            found.setdefault(one.path, one)
    return Sources(
        [one for one in found.values() if isinstance(one, Candidate)],
        [one for one in found.values() if isinstance(one, LeftOut)],
        Counter(passed_over.values()),
    )


def shown(path: str) -> str:
    """A path as text that any file, terminal or encoding takes: odd bytes and control characters escaped."""
    return printable(path)


def _straight(source: Path) -> str:
    """The absolute path without ``..``: what stands before the last one is followed through links."""
    parts = source.absolute().parts
    last = max((number for number, part in enumerate(parts) if part == ".."), default=-1)
    return str(Path(Path(*parts[: last + 1]).resolve() if last >= 0 else "", *parts[last + 1 :]))


def _walk(top: str, passed_over: dict[str, str]) -> Iterator[Candidate | LeftOut]:
    refused: list[LeftOut] = []

    def keep(error: OSError) -> None:
        refused.append(LeftOut(shown(str(error.filename)), "unreadable_folder", os.strerror(error.errno or 0)))

    names: list[str] = []
    for folder, folders, files in os.walk(top, onerror=keep):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for path in (os.path.join(folder, name) for name in (*files, *links)):  # noqa: PTH118
            kind = sidecar_kind(path.removeprefix(top))
            if kind is not None and is_passed_over(kind, path):
                passed_over[path] = kind
            else:
                names.append(path)
    yield from map(_look, sorted(names))
    yield from refused


def _look(path: str) -> Candidate | LeftOut:
    if path != path.encode("utf-8", "surrogateescape").decode("utf-8", "replace"):
        return LeftOut(shown(path), "name_not_utf8", "a result cannot name it: rename it")
    try:
        status = Path(path).stat()
    except OSError as error:
        broken = Path(path).is_symlink()
        return LeftOut(path, "broken_link" if broken else "unreadable", error.strerror or str(error))
    if stat.S_ISDIR(status.st_mode):
        return LeftOut(path, "link_to_folder", "not followed: name that folder itself")
    if not stat.S_ISREG(status.st_mode):
        return LeftOut(path, "not_a_file", "a pipe, socket or device")
    return Candidate(path, status.st_size, status.st_mtime_ns)
