"""Patch features beside embeddings: kept part by part, and put together in the order of the embeddings.

<file>.npy    float16 [N, rows, columns, D]; row i is of the image in row i of the embeddings
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dinomill.errors import InputError
from dinomill.storage.atomic import atomic_file

if TYPE_CHECKING:
    from dinomill.commands.embed_sources import Candidate
    from dinomill.serving.predictor import Predictor

Grid = npt.NDArray[np.float16]  # [rows, columns, D]
SUFFIX = ".npy"


class Row(NamedTuple):
    """Where an image's patches are kept."""

    part: Path
    number: int


def require_patches(predictor: Predictor) -> None:
    """Refuse a network without places.

    Raises:
        InputError: Says what it gives.
    """
    import torch

    settings = predictor.preprocessing
    side = settings.image_size
    with torch.inference_mode():
        seen = predictor.features(torch.zeros(1, settings.channels, side, side, device=predictor.device))
    if seen.patches is None:
        description = predictor.features.description
        raise InputError(
            f"{description.address} has no patch features: it gives one vector an image.",
            found=description.family,
            action="leave --patches out, or take a vision transformer or a ConvNeXt",
        )


def keep(part: Path, grids: Sequence[Grid]) -> None:
    """Write the patches of a part, whole or not at all."""
    with atomic_file(part) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack(grids))


def rows_of(part: Path) -> int:
    """How many images a part is of; -1 where it is missing or damaged."""
    try:
        return len(np.load(part, mmap_mode="r"))
    except (OSError, ValueError, EOFError):
        return -1


def put_together(output: Path, files: Sequence[Candidate], where: Mapping[Candidate, Row]) -> tuple[int, ...]:
    """Write the patches of these files, in their order; returns the array's shape. A part at a time is in memory.

    Raises:
        StorageError: When the disk is full.
    """
    parts: dict[Path, npt.NDArray[np.float16]] = {}
    first = np.load(where[files[0]].part, mmap_mode="r")
    shape = (len(files), *first.shape[1:])
    # Written and not mapped: where a disk fills, a mapped file ends the process without a word.
    with atomic_file(output) as temporary, temporary.open("wb") as file:
        head = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, head)
        for one in files:
            row = where[one]
            if row.part not in parts:
                parts = {row.part: np.load(row.part, mmap_mode="r")}
            file.write(parts[row.part][row.number].tobytes())
    return shape
