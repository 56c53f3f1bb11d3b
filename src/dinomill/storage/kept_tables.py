"""Tables of rows kept by key (see kept.py), held in memory.

<folder>/<name>.parquet    a column ``key`` beside the others; its pages carry checksums
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinomill.arrays import Rows
from dinomill.storage.atomic import atomic_file
from dinomill.storage.hashing import hash_bytes
from dinomill.storage.kept import KEY, KeyIndex, Keys, drop_damaged, files_ending, mark_used, pass_over, to_tidy

KEY_FIELD = pa.field("key", pa.binary(KEY), nullable=False)


class KeptTables:
    """All tables of a folder.

    Args:
        folder: Theirs; need not exist.
        fields: To hold, beside the key.
    """

    def __init__(self, folder: Path, fields: Iterable[pa.Field] = ()) -> None:
        self._folder = folder
        wanted = [KEY_FIELD, *fields]
        read = [(path, table) for path in files(folder) if (table := _read(path, wanted)) is not None]
        self._paths = [path for path, _ in read]
        self._table = pa.concat_tables([table for _, table in read]) if read else None
        self._starts = np.cumsum([0, *(len(table) for _, table in read)])
        self.index = KeyIndex(from_arrow(self._table[KEY_FIELD.name]) if self._table is not None else as_empty())

    def find(self, keys: Keys) -> Rows:
        """The row of each key, -1 where there is none."""
        return self.index.find(keys)

    def take(self, rows: Rows, schema: pa.Schema) -> pa.Table:
        """Rows by number, without their keys; all null for -1.

        Args:
            rows: Numbers that ``find`` gave.
            schema: Of the columns wanted.
        """
        if self._table is None:
            return pa.table([pa.nulls(len(rows), field.type) for field in schema], schema=schema)
        return self._table.select(schema.names).take(pa.array(rows, mask=rows < 0)).combine_chunks()

    def fixed(self, rows: Rows, field: pa.Field) -> npt.NDArray[np.uint8] | None:
        """A column of equally long bytes, [n, bytes], read file by file: it need not be held; zero bytes for -1.

        None: a file is gone or damaged since it was opened; a new look says what is missing.
        """
        width = field.type.byte_width
        found = np.zeros((len(rows), width), dtype=np.uint8)
        file = np.where(rows >= 0, np.searchsorted(self._starts, rows, side="right") - 1, -1)
        order = np.argsort(file, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(file[order])) + 1):
            if not len(here) or (number := file[here[0]]) < 0:
                continue
            table = _read(self._paths[number], [field])
            if table is None:
                return None
            found[here] = fixed_bytes(table[field.name], width)[rows[here] - self._starts[number]]
        return found

    def tidy(self, used: Rows) -> None:
        """Say which rows were used; when many files hold few of them, put those together."""
        used, file, thin = to_tidy(used, self._starts)
        moved = []
        for number in thin:
            table = _read(self._paths[number], None)
            if table is not None:
                moved.append(table.take(pa.array(used[file == number] - self._starts[number])))
        if moved:
            write_table(self._folder, pa.concat_tables(moved).combine_chunks())
        mark_used(self._paths[number] for number in np.unique(file) if number not in set(thin))


def write_table(folder: Path, table: pa.Table, name: str | None = None) -> Path:
    """Add a file of rows with their keys; ``name`` is a hash of what is in it (None: of the keys)."""
    path = folder / f"{name or hash_bytes(from_arrow(table[KEY_FIELD.name]).tobytes())[:16]}.parquet"
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    return path


def files(folder: Path) -> list[Path]:
    """The tables of a folder."""
    return files_ending(folder, ".parquet")


def to_arrow(keys: Keys) -> pa.Array:
    """Keys as a column."""
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY), len(keys), [None, pa.py_buffer(keys.tobytes())])


def from_arrow(column: pa.ChunkedArray) -> Keys:
    """Keys from a column; zero bytes where it is null."""
    return fixed_bytes(column, KEY).reshape(-1).view(f"S{KEY}")


def fixed_bytes(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    """A column of equally long bytes as numbers, uint8 [n, width]; zero where it is null."""
    parts = [np.empty((0, width), dtype=np.uint8)]
    for chunk in column.chunks:
        if isinstance(chunk, pa.NullArray) or not len(chunk):
            continue
        filled = pc.fill_null(chunk, pa.scalar(bytes(width), chunk.type)) if chunk.null_count else chunk
        everything = np.frombuffer(filled.buffers()[1], dtype=np.uint8)
        parts.append(everything[filled.offset * width : (filled.offset + len(filled)) * width].reshape(-1, width))
    return np.concatenate(parts)


def as_empty() -> Keys:
    """No keys."""
    return np.empty(0, dtype=f"S{KEY}")


def _read(path: Path, fields: Sequence[pa.Field] | None) -> pa.Table | None:
    """Some columns of a table, None: all; None when it is damaged, or no table of ours."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            there = file.schema_arrow
            for field in fields or ():
                if field.name not in there.names or there.field(field.name).type != field.type:
                    pass_over(path, f"is no table of this folder: it has no column {field.name} of {field.type}")
                    return None
            return file.read(None if fields is None else [field.name for field in fields])
    except FileNotFoundError:  # tidied away by another process
        return None
    except PermissionError as error:
        pass_over(path, f"cannot be read ({error.strerror})")
        return None
    except (pa.ArrowException, OSError):
        drop_damaged(path)
        return None
