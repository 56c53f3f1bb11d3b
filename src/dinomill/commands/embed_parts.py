"""What a run of `dinomill embed` has done so far, so that one that was stopped continues where it was.

<folder>/.<output>.unfinished/lock              held by the process that works on it
<folder>/.<output>.unfinished/<identity>/N.parquet   embeddings and reasons, some hundred files each
<folder>/.<output>.unfinished/<identity>/N.npy       their patch features, where they are wanted
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinomill.arrays import Floats
from dinomill.commands.embed_patches import Grid, Row, keep, rows_of
from dinomill.commands.embed_sources import Candidate, LeftOut
from dinomill.errors import InputError
from dinomill.storage.atomic import storage_errors, write_parquet
from dinomill.storage.lock import held

_ROWS, _SECONDS = 4096, 20.0  # a part is kept after so many files, or so much time
_BYTES = 256 * 2**20  # or so many of patch features


class Done(NamedTuple):
    """A file that was looked at."""

    file: Candidate
    result: Floats | LeftOut  # [D], or why there is none
    patches: Grid | None = None  # until they are kept


class Parts:
    """The kept work of one output and one network.

    Args:
        folder: Of the parts; other networks' parts lie beside it and are removed.
        patches: Whether patch features are kept, too.
    """

    def __init__(self, folder: Path, *, patches: bool = False) -> None:
        self._folder, self._patches = folder, patches
        self.patches: dict[Candidate, Row] = {}
        self._waiting: list[Done] = []
        self._last = time.monotonic()
        self._number = 0

    def begin(self) -> list[Done]:
        """What an earlier run has kept; a part that cannot be read is computed again."""
        with storage_errors(self._folder):
            for other in self._folder.parent.iterdir():
                if other.is_dir() and other != self._folder:
                    shutil.rmtree(other, ignore_errors=True)
            self._folder.mkdir(exist_ok=True)
        found: list[Done] = []
        for path in sorted(self._folder.glob("*.parquet")):
            self._number = max(self._number, int(path.stem) + 1)
            try:
                part = list(_read(path))
            except (OSError, ValueError, KeyError):
                path.unlink(missing_ok=True)
                continue
            images = len(_good(part))  # of files that are left out alone there are no patches to keep
            if self._patches and images and rows_of(path.with_suffix(".npy")) != images:
                path.unlink(missing_ok=True)
                continue
            self._place(part, path)
            found += part
        return found

    def add(self, done: Sequence[Done]) -> None:
        """Keep some more.

        Raises:
            StorageError: When the disk is full; what was kept before stays.
        """
        self._waiting += done
        held = sum(0 if one.patches is None else one.patches.nbytes for one in self._waiting)
        if len(self._waiting) >= _ROWS or held >= _BYTES or time.monotonic() - self._last >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            path = self._folder / f"{self._number:06d}.parquet"
            grids = [one.patches for one in self._waiting if one.patches is not None]
            if grids:  # before the part that says they are there
                keep(path.with_suffix(".npy"), grids)
            _write(path, self._waiting)
            self._place(self._waiting, path)
            self._number += 1
        self._waiting, self._last = [], time.monotonic()

    def _place(self, part: Sequence[Done], path: Path) -> None:
        if self._patches:
            rows = enumerate(_good(part))
            self.patches |= {one.file: Row(path.with_suffix(".npy"), number) for number, one in rows}


def unfinished(output: Path) -> Path:
    """Where the parts of an output lie while it is made, or after it was stopped."""
    return output.with_name(f".{output.name}.unfinished")


@contextmanager
def parts_of(output: Path, identity: str, *, patches: bool = False) -> Iterator[Parts]:
    """The parts of an output, for one process at a time; removed when the block ends well, kept otherwise.

    Args:
        output: The file that will be made of them.
        identity: Of all that an embedding depends on besides its image.
        patches: Whether patch features are kept, too.

    Raises:
        InputError: When another process is writing the same file.
    """
    folder = unfinished(output)
    busy = InputError(
        f"Another `dinomill embed` is writing {output}.", action="wait for its end, or name another --output"
    )
    with held(folder / "lock", busy):
        parts = Parts(folder / (identity[:32] + ("-patches" if patches else "")), patches=patches)
        try:
            yield parts
        except BaseException:
            # Ctrl-C, a full disk: what is done is worth keeping, and must not hide why the work stopped.
            with suppress(Exception):
                parts.flush()
            if not any(folder.glob("*/*.parquet")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _good(part: Sequence[Done]) -> list[Done]:
    return [one for one in part if not isinstance(one.result, LeftOut)]


def _write(path: Path, done: Sequence[Done]) -> None:
    import pyarrow as pa

    vectors = [None if isinstance(one.result, LeftOut) else one.result.tobytes() for one in done]
    reasons = [one.result if isinstance(one.result, LeftOut) else None for one in done]
    columns: dict[str, Any] = {
        "path": pa.array([one.file.path for one in done], pa.string()),
        "size": pa.array([one.file.size for one in done], pa.int64()),
        "modified": pa.array([one.file.modified for one in done], pa.int64()),
        "vector": pa.array(vectors, pa.binary()),
        "reason": pa.array([left and left.reason for left in reasons], pa.string()),
        "detail": pa.array([left and left.detail for left in reasons], pa.string()),
    }
    write_parquet(path, pa.table(columns))


def _read(path: Path) -> Iterator[Done]:
    import pyarrow.parquet as pq

    for row in pq.read_table(path).to_pylist():
        file = Candidate(row["path"], row["size"], row["modified"])
        if row["vector"] is None:
            yield Done(file, LeftOut(row["path"], row["reason"], row["detail"]))
        else:
            yield Done(file, np.frombuffer(row["vector"], np.float32))
