"""Long arrays on disk, written from front to back: ``.npy`` files that are read memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def write_rows(path: Path, blocks: Iterable[npt.NDArray[Any]], *, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    """Write a ``.npy`` file block by block.

    Not through a memory map: on a full disk that ends the process by a signal (SIGBUS), and nobody learns why.

    Args:
        path: The file.
        blocks: The rows in order; together of ``shape``.
        shape: Of the whole array.
        dtype: What the blocks are stored as.

    Raises:
        OSError: When the disk is full or not writable.
    """
    kind = np.dtype(dtype)
    description = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    rows = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, description)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=kind).data)
            rows += len(block)
    assert rows == shape[0], f"{rows} rows were written of {shape[0]}"
