"""The bytes of an image file: read whole, unless no image is so large that any memory could be taken for it."""

from __future__ import annotations

import os
from pathlib import Path

from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.named import name_format

# The most that a picture within the readers' limit of pixels takes as it stands: three doubles of each of them.
MOST_BYTES = 4 * 2**30
_HEAD = 4096


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file.

    Args:
        path: Where it lies.
        most: Bytes; a larger file is not read. A sparse one may say any size and take no room.

    Raises:
        DecodeError: too_large, also where there is no memory for it; unsupported where its first bytes say what it is.
        OSError: When it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            if (known := name_format(file.read(_HEAD))) is not None:
                raise DecodeError(Reason.UNSUPPORTED, known.remedy, known.kind)
            raise too_large(size, most)
        try:
            return file.read()
        except MemoryError:
            raise DecodeError(
                Reason.TOO_LARGE, f"{size / 2**20:,.0f} MB; there is not enough memory to read it"
            ) from None


def too_large(size: int, most: int = MOST_BYTES) -> DecodeError:
    """What is said of a file that is not read."""
    return DecodeError(Reason.TOO_LARGE, f"{size / 2**20:,.0f} MB; at most {most / 2**20:,.0f} MB are read of a file")
