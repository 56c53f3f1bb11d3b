"""Fetched packages on this machine: verified, held while they are served, and in the end removed.

<cache>/<model>-<version>-<16 digits>/    a package; when it was last asked for is its time
<cache>/.<…>.tmp, .<…>.old                of a fetch that was killed; removed after a day

Who serves a package holds a shared lock on its folder, and who removes one takes it alone. Where a file system knows no
locks, nothing is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from dinomill.storage.hashing import hash_file

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"(?P<model>.+)-\d+-[0-9a-f]{16}")
_LEFT = re.compile(r"\.(?:.+)-\d+-[0-9a-f]{16}\.\d+\.(?:tmp|old)")
_PREVIOUS = 1  # versions that are kept beside those in use, to go back to without a download
_UNUSED_SECONDS = 3600.0  # between being asked for and being held lie moments; this is on the safe side
_LEFT_SECONDS = 86_400.0

_hashed: dict[tuple[int, ...], str] = {}  # of this process: a file that looks as it did is not read again


def hold(folder: Path) -> int | None:
    """Hold a package's folder until the descriptor is closed; None where that cannot be done."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_whole(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Whether a package is there as it should be; then it counts as asked for now.

    Args:
        folder: Where it lies.
        hashes: Of its files, by their names.
    """
    descriptor = hold(folder)
    try:
        if not folder.is_dir() or damaged(folder, hashes):
            return False
        os.utime(folder)
        return True
    finally:
        if descriptor is not None:
            os.close(descriptor)


def damaged(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Names of files that are not what they should be; what has not changed since it was last hashed is not again."""
    return [name for name, sha256 in hashes.items() if _hash(folder / name) != sha256]


def _hash(path: Path) -> str | None:
    if not path.is_file():
        return None
    found = path.stat()
    looks = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if looks not in _hashed:
        _hashed[looks] = hash_file(path)
    return _hashed[looks]


def remove_old(cache: Path, present: Path) -> None:
    """Remove versions of a model that are neither in use nor the last before those that are.

    Args:
        cache: Where packages are kept.
        present: The folder of the one that was just fetched.
    """
    model = _model(present)
    others = [one for one in cache.iterdir() if one.is_dir() and one != present and model and _model(one) == model]
    kept = 0
    for folder in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True):
        if (descriptor := _taken_alone(folder)) is None:
            continue
        try:
            if kept < _PREVIOUS:
                kept += 1
            elif time.time() - folder.stat().st_mtime > _UNUSED_SECONDS:
                logger.info("%s is removed: newer ones of its model are kept", folder)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
    for left in cache.iterdir():
        if _LEFT.fullmatch(left.name) and time.time() - left.stat().st_mtime > _LEFT_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _model(folder: Path) -> str | None:
    found = _FOLDER.fullmatch(folder.name)
    return found["model"] if found else None


def _taken_alone(folder: Path) -> int | None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or not to be known
        os.close(descriptor)
        return None
    return descriptor
