"""Reading the scan's table, and the sources' images through it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.curation.handles import ScanHandle
from dinomill.curation.sources import Item, read_item
from dinomill.errors import InputError
from dinomill.storage.atomic import storage_errors


def fresh_folder(folder: Path) -> None:
    """Empty a folder that a step is about to write: nothing of an earlier or killed run may stay in it.

    Raises:
        StorageError: When it cannot be written.
    """
    with storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)


def read_files(scan: ScanHandle, columns: list[str] | None = None) -> pa.Table:
    """The scan's table, or some of its columns.

    Raises:
        InputError: When the table is gone.
    """
    try:
        return pq.read_table(scan.files, columns=columns)
    except FileNotFoundError:
        raise InputError(
            f"There is no {scan.files}.", expected="the table that the scan's handle names", action="run curation again"
        ) from None


def as_item(row: Mapping[str, Any]) -> Item:
    """The item that a row of the table describes."""
    return Item(row["path"], row["bytes"], "", row["start"], place=row["place"])


def read_row(row: Mapping[str, Any]) -> bytes:
    """The bytes of the file that a row of the table describes (columns source, path, bytes, start, place)."""
    return read_item(row["source"], as_item(row))


def read_again(source: str, item: Item) -> bytes:
    """The bytes of an item that was read before.

    Raises:
        InputError: When it is no longer readable.
    """
    try:
        return read_item(source, item)
    except OSError as error:
        raise InputError(
            f"{source}/{item.path} was readable a moment ago and no longer is.",
            found=str(error),
            action="keep the pool unchanged while curation runs, and run it again",
        ) from None
