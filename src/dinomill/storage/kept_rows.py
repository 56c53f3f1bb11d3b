"""Rows of numbers kept by key (see kept.py), read from memory maps.

<folder>/<name>.npy         [n, D]
<folder>/<name>.keys.npy    n keys, and a checksum of each row; written last: without it the rows do not count
"""

from __future__ import annotations

import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Rows
from dinomill.storage.atomic import atomic_file
from dinomill.storage.hashing import hash_bytes
from dinomill.storage.kept import KEY, KeyIndex, Keys, drop_damaged, files_ending, mark_used, pass_over, to_tidy

_KEYS = np.dtype([("key", f"S{KEY}"), ("check", "<u4")])
_ENDING = ".keys.npy"
_AT_ONCE = 16_384  # rows copied at once when files become one
_Kind = tuple[int, str]  # of rows: how many numbers, of which type


class Damaged(Exception):
    """Rows are not what was written; their file is gone, and a new look says what is missing."""


class KeptRows:
    """All rows of a folder; in memory are their keys, 52 bytes a row.

    Args:
        folder: Theirs; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        opened = _of_one_kind(folder)
        self._paths = [path for path, _ in opened]
        self._starts = np.cumsum([0, *(len(keys) for _, keys in opened)])
        entries = np.concatenate([np.empty(0, _KEYS), *(keys for _, keys in opened)])
        self._keys, self._checks = np.ascontiguousarray(entries["key"]), np.ascontiguousarray(entries["check"])
        self._index = KeyIndex(self._keys)

    def find(self, keys: Keys) -> Rows:
        """The row of each key, -1 where there is none."""
        return self._index.find(keys)

    def take(self, rows: Rows) -> npt.NDArray[Any]:
        """Rows by number, [n, D].

        Raises:
            Damaged: When one of them is not what was written.
        """
        file = np.searchsorted(self._starts, rows, side="right") - 1
        found: npt.NDArray[Any] | None = None
        for number in np.unique(file):
            here = np.flatnonzero(file == number)
            some = self._of_file(int(number), rows[here])
            if found is None:
                found = np.empty((len(rows), some.shape[1]), dtype=some.dtype)
            found[here] = some
        assert found is not None, "no rows were asked for"
        return found

    def tidy(self, used: Rows) -> None:
        """Say which rows were used; when many files hold few of them, put those together."""
        used, file, thin = to_tidy(used, self._starts)
        moved = used[np.isin(file, thin)]
        with suppress(Damaged):  # found out, and made again, when it is next asked for
            for start in range(0, len(moved), _AT_ONCE):
                some = moved[start : start + _AT_ONCE]
                write_rows_kept(self._folder, self._keys[some], self.take(some))
        staying = [self._paths[number] for number in np.unique(file) if number not in set(thin)]
        mark_used([*staying, *map(_rows_of, staying)])

    def _of_file(self, number: int, rows: Rows) -> npt.NDArray[Any]:
        path = self._paths[number]
        try:
            some = np.load(_rows_of(path), mmap_mode="r")[rows - self._starts[number]]
        except (OSError, ValueError, IndexError):
            some = None
        if some is None or any(zlib.crc32(row) != check for row, check in zip(some, self._checks[rows], strict=True)):
            drop_damaged(path, _rows_of(path))
            raise Damaged(str(path))
        return np.asarray(some)


def write_rows_kept(folder: Path, keys: Keys, rows: npt.NDArray[Any], name: str | None = None) -> Path:
    """Add a file of rows [n, D] with their keys; ``name`` is a hash of what is in it (None: of the keys).

    Returns:
        The file of the keys.
    """
    rows = np.ascontiguousarray(rows)
    entries = np.empty(len(keys), dtype=_KEYS)
    entries["key"], entries["check"] = keys, [zlib.crc32(row) for row in rows]
    path = folder / f"{name or hash_bytes(keys.tobytes())[:16]}{_ENDING}"
    for target, content in ((_rows_of(path), rows), (path, entries)):
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            np.save(file, content)
    return path


def _of_one_kind(folder: Path) -> list[tuple[Path, npt.NDArray[Any]]]:
    """Files and their keys: of those whose rows are of the kind that most rows here are; others are not ours."""
    opened = [(path, *both) for path in files_ending(folder, _ENDING) if (both := _open(path)) is not None]
    count: Counter[_Kind] = Counter()
    for _, keys, kind in opened:
        count[kind] += len(keys)
    usual = max(count, key=count.__getitem__, default=None)
    for path, _, kind in opened:
        if kind != usual:
            pass_over(path, f"holds rows of {kind[0]} numbers ({kind[1]}) and not of {usual[0] if usual else 0}")
    return [(path, keys) for path, keys, kind in opened if kind == usual]


def _rows_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_ENDING) + ".npy")


def _open(path: Path) -> tuple[npt.NDArray[Any], _Kind] | None:
    """The keys of a file whose rows are all there, and the kind of its rows."""
    if not _rows_of(path).is_file():
        return None  # keys without rows: being written, or tidied away by another process
    try:
        keys: npt.NDArray[Any] = np.load(path)
        rows = np.load(_rows_of(path), mmap_mode="r")  # says when the file is shorter than it should be
        whole = keys.dtype == _KEYS and keys.ndim == 1 and rows.ndim == 2 and len(rows) == len(keys)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        pass_over(path, f"or its rows cannot be read ({error.strerror})")
        return None
    except (OSError, ValueError, EOFError):
        whole = False
    if not whole:
        drop_damaged(path, _rows_of(path))
        return None
    return keys, (rows.shape[1], str(rows.dtype))
