"""The images that 8 bits are calibrated on: given, of a curated dataset, or of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.handles import HANDLE_NAME, DatasetHandle
from dinomill.images.decode_error import DecodeError
from dinomill.images.listing import list_items, read_item
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.images.sampled import sample_images
from dinomill.storage.typed import is_there
from dinomill.storage.writable import printable

IMAGES = 128  # as many as packaging's trial compares embeddings on; every other one says the ranges
_LEAST = 8


def calibration_images(source: Path | Sequence[bytes] | None, settings: PreprocessingConfig) -> Floats | None:
    """Preprocessed images, ``[N, C, S, S]``; None where no source is given.

    Args:
        source: Encoded images; a curated dataset's folder; or any source of images, of which 128 are taken, evenly
            spread. Those that cannot be decoded are passed over.
        settings: Of the network.

    Raises:
        InputError: When nothing is there, or there are fewer than eight.
    """
    if source is None:
        return None
    found = []
    for encoded in read_calibration(source) if isinstance(source, Path) else source:
        try:
            found.append(preprocess_bytes(encoded, settings))
        except DecodeError:
            continue
    if len(found) < _LEAST:
        raise InputError(
            "8 bits cannot be calibrated on so few images.",
            found=f"{len(found)} that can be used" + (f" in {source}" if isinstance(source, Path) else ""),
            expected=f"at least {_LEAST}; some 64 to 128 are better",
            action="give a folder with more images of the kind that will be seen",
        )
    return np.stack(found)


def read_calibration(source: Path) -> list[bytes]:
    """Encoded images of a curated dataset's folder or of any source, at most 128, evenly spread.

    Raises:
        InputError: When nothing is there.
    """
    if not is_there(source):
        raise InputError(
            f"There is no {printable(source)} to calibrate 8 bits with.",
            expected="a folder of images of the kind that will be seen, or a curated dataset's",
            action="correct the path that --calibration names",
        )
    if (source / HANDLE_NAME).is_file():
        return sample_images(DatasetHandle.load(source), IMAGES)
    items = list_items(str(source))
    if not items:
        return []
    picked = np.unique(np.linspace(0, len(items) - 1, IMAGES).round().astype(int))
    read = []
    for number in picked:
        try:
            read.append(read_item(str(source), items[number]))
        except (DecodeError, OSError):
            continue
    return read
