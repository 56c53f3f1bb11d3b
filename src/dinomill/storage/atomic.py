"""Writes that are either whole or absent: a temporary name beside the target, then a rename.

<parent>/.<name>.<pid>.tmp   while being written
<parent>/<name>              when complete
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dinomill.errors import StorageError

_FULL = "free some space on that disk and run the same command again: it continues where it was"
_ACTIONS = {
    errno.ENOSPC: _FULL,
    errno.EFBIG: "this shell or disk limits the size of a file: raise it (`ulimit -f unlimited`), or write elsewhere",
    errno.EDQUOT: "raise the quota or free some space, then run the same command again",
    errno.EACCES: "give this user the right to write there, or configure another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EROFS: "the file system is read-only: configure another folder",
}
# What writers say who do not pass on the system's number: NumPy, safetensors, torch, SQLite.
_SAID = (
    (re.compile(r"^\d+ requested and \d+ written$"), errno.ENOSPC),
    (re.compile(r"\(os error (\d+)\)"), None),
    (re.compile(r"^\[enforce fail at inline_container|PytorchStreamWriter failed writing"), errno.ENOSPC),
    (re.compile(r"database or disk is full"), errno.ENOSPC),
)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a missing permission into a StorageError that names the path."""
    try:
        yield
    except Exception as error:
        if stands := _in_the_way(path, error):
            raise stands from None
        number = refusal(error) or _full_beneath(error)
        if number is None:
            raise
        if number == errno.ENOSPC and _is_guessed(error):
            raise (refused(path, errno.EFBIG) if _is_limited(path) else _full_or_quota(path)) from None
        raise refused(path, number) from None


def _is_guessed(error: Exception) -> bool:
    """Whether a writer has said that it wrote too little and not why, as NumPy and torch do."""
    return (
        refusal(error) is not None
        and not (isinstance(error, OSError) and error.errno is not None)
        and any(number is not None and pattern.search(str(error)) for pattern, number in _SAID)
    )


def _is_limited(path: Path) -> bool:
    """Whether the process's limit on the size of a file is what stood in the way: the disk has room for more."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    # What was written is gone by now: a disk that was full has less room than that limit.
    return limit != resource.RLIM_INFINITY and shutil.disk_usage(_folder(path)).free >= limit


def _full_or_quota(path: Path) -> StorageError:
    full = refused(path, errno.ENOSPC)
    return StorageError(
        full.problem, found=full.found, action=f"{_FULL}; where it has room, a quota stands in the way (`quota -s`)"
    )


def _in_the_way(path: Path, error: Exception) -> StorageError | None:
    """The message for a folder where a file belongs, and for a file where a folder belongs."""
    if not isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return None
    path = path.absolute()
    named = [Path(name).absolute() for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    above = [one for one in (path, *path.parents) if one in named]
    if not above:  # of some other place that was used on the way
        return None
    file = next((one for one in (path, *path.parents) if one.exists() and not one.is_dir()), None)
    if file is None and not path.is_dir():
        return None
    return StorageError(
        f"Cannot write {path}: something else is there.",
        found=f"{path}, which is a folder" if file is None else f"{file}, which is a file",
        expected="a file, or nothing" if file is None else "a folder, or nothing",
        action="move it away or remove it, then run the same command again",
    )


def refusal(error: BaseException) -> int | None:
    """Why the storage refused a write, as an ``errno``, whoever says so; None for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _ACTIONS else None
    if isinstance(error, shutil.Error):  # of copying a folder: a list of what went wrong with each file, in words
        numbers = [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]
        return next((number for number in numbers if number in _ACTIONS), None)
    if type(error).__module__.split(".")[0] in ("builtins", "safetensors", "sqlite3", "sqlalchemy", "torch"):
        for pattern, number in _SAID:
            if found := pattern.search(str(error)):
                number = number or int(found[1])
                return number if number in _ACTIONS else None
    return None


def _full_beneath(error: BaseException) -> int | None:
    """A full disk that a library has wrapped in an error of its own."""
    beneath = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for _ in range(8):
        if beneath is None:
            return None
        if (number := refusal(beneath)) in (errno.ENOSPC, errno.EDQUOT):
            return number
        beneath = beneath.__cause__ or beneath.__context__
    return None


def refused(path: Path | str, number: int) -> StorageError:
    """The message for a path that cannot be written.

    Args:
        path: For people; that of a file, where it is known.
        number: What `refusal` found.
    """
    full = number in (errno.ENOSPC, errno.EDQUOT)
    found = _free_space(path) if full and isinstance(path, Path) else None
    return StorageError(f"Cannot write {path}: {os.strerror(number)}.", found=found, action=_ACTIONS[number])


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it becomes ``path``, else it is removed.

    Raises:
        StorageError: When the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            # Without this, a power cut after the rename can leave a file of the right name and no content.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, keep: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends well it replaces ``path`` whole, else it is removed.

    Args:
        path: The folder.
        keep: What is moved from the folder before into the new one, where it is there.

    Raises:
        StorageError: When the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            # Last: whatever goes wrong until then, it still lies in a folder that nobody removes.
            if keep is not None and (old / keep).exists():
                (old / keep).rename(path / keep)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_parquet(path: Path, table: Any) -> None:
    """Write a pyarrow table atomically; the same rows always give the same bytes."""
    import pyarrow.parquet as pq

    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_statistics=True)


def _free_space(path: Path) -> str:
    folder = _folder(path)
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free on the disk of {folder}"


def _folder(path: Path) -> Path:
    return next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))


def fresh_folder(folder: Path) -> None:
    """Empty a folder that a step is about to write: nothing of an earlier or killed run may stay in it.

    Raises:
        StorageError: When it cannot be written.
    """
    with storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
