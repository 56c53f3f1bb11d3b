"""Results kept by what they were made of, so that nothing is made twice: files of rows that come and go whole.

<folder>/<name>.*      some rows and their keys, written once and never changed; its time says when it was last used

A key is 32 bytes: the sha256 of what the row was made from. A folder may be written by several processes at once: each
adds files of its own. What nothing has used for 90 days goes; so does whatever a person removes, at the price of making
it again.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Rows
from dinomill.storage.hashing import hash_file, hash_json

Keys = npt.NDArray[np.bytes_]  # [n], 32 bytes each

KEPT_DAYS = 90
KEY = 32  # bytes
_THIN, _MANY = 256, 16  # a file of fewer rows in use is thin; more than so many of them become one
_DAY = 86_400


def as_keys(hashes: Iterable[str]) -> Keys:
    """Keys from sha256 sums in hexadecimal digits."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=f"S{KEY}")


def as_hashes(keys: Keys) -> list[str]:
    """The sums in hexadecimal digits again."""
    digits = keys.tobytes().hex()
    return [digits[start : start + 2 * KEY] for start in range(0, len(digits), 2 * KEY)]


class KeyIndex:
    """Finds rows by their keys: 16 bytes a row in memory, beside the keys.

    Args:
        keys: Of all rows; of equal ones the last counts.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        heads = _heads(keys)
        self._order = np.argsort(heads, kind="stable")
        self._heads = heads[self._order]

    def find(self, wanted: Keys) -> Rows:
        """The row of each key, -1 where there is none."""
        if not len(self._keys):
            return np.full(len(wanted), -1, dtype=np.int64)
        place = np.maximum(np.searchsorted(self._heads, _heads(wanted), side="right") - 1, 0)
        row = self._order[place]
        # Of two keys that begin alike (one pair in 2⁶⁴) one is never found, and made again each time.
        return np.where(self._keys[row] == wanted, row, -1)


def _heads(keys: Keys) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view(">u8").reshape(len(keys), KEY // 8)[:, 0].astype(np.uint64)


def to_tidy(used: Rows, starts: Rows) -> tuple[Rows, Rows, list[int]]:
    """The rows in use once each and in order, the file of each, and which files should become one.

    Those are the files of few rows in use, when there are many of them.

    Args:
        used: The rows in use; -1 is none.
        starts: Where each file's rows begin, and the end.
    """
    used = np.unique(used[used >= 0])
    file = np.searchsorted(starts, used, side="right") - 1
    count = np.bincount(file, minlength=len(starts) - 1)
    thin = np.flatnonzero((count > 0) & (count < _THIN))
    return used, file, thin.tolist() if len(thin) > _MANY else []


def mark_used(paths: Iterable[Path]) -> None:
    """Say that files were used now."""
    for path in paths:
        with suppress(OSError):  # another process may have removed it, or own it
            os.utime(path)


def remove_unused(root: Path, days: float = KEPT_DAYS) -> None:
    """Remove what nothing has used for so long, everywhere below ``root``, and what killed writers left."""
    now = time.time()
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = Path(folder) / name
            with suppress(OSError):  # another process is tidying too
                if now - path.stat().st_mtime > (min(1, days) if name.endswith(".tmp") else days) * _DAY:
                    path.unlink()
        with suppress(OSError):  # not empty
            if Path(folder) != root:
                Path(folder).rmdir()


def drop_damaged(path: Path, *others: Path) -> None:
    """Remove a file that is not what was written, and say so: its rows are made again."""
    _say(path, "is damaged: what it held is made again")
    for one in (path, *others):
        with suppress(OSError):  # a folder, or not ours to remove: passed over each time
            one.unlink(missing_ok=True)


def pass_over(path: Path, why: str) -> None:
    """Say that a file is not used and left as it is: whoever put it there may want it."""
    _say(path, f"{why}: it is passed over, and may be removed")


@functools.cache  # one process opens a folder many times
def _say(path: Path, what: str) -> None:
    print(f"{path} {what}", file=sys.stderr, flush=True)


def files_ending(folder: Path, ending: str) -> list[Path]:
    """The files of a folder, without folders, pipes and what is being written."""
    return sorted(path for path in folder.glob(f"*{ending}") if not path.name.startswith(".") and _is_file(path))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link to itself, on some systems
        return False


def made_by(modules: Sequence[str], packages: Sequence[str]) -> str:
    """A hash of the code that makes rows: other code may give other numbers, so it gets a folder of its own.

    Args:
        modules: Of dinomill, packages whole; their text counts.
        packages: Installed ones; their versions count, one that is not installed has none.
    """
    texts: dict[str, Any] = {name: [hash_file(file) for file in _sources(name)] for name in modules}
    return hash_json([texts, {name: _version(name) for name in packages}])


def _sources(module: str) -> list[Path]:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} has no file"
    origin = Path(spec.origin)
    return sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
