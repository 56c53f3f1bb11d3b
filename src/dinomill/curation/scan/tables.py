"""Reading the scan's table, and the sources' images through it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.curation.handles import ScanHandle
from dinomill.errors import InputError


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
