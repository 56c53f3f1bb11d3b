"""Files of embeddings, as `dinomill embed` writes them: read, and shown in tools for looking at images."""

from __future__ import annotations

from pathlib import Path

from dinomill.embeddings.file import Embeddings

__all__ = ["Embeddings", "read"]


def read(path: str | Path) -> Embeddings:
    """The embeddings of a file.

    Args:
        path: A ``.parquet`` or ``.npy`` file that `dinomill embed` wrote.

    Raises:
        InputError: When it is missing, something else, or holds what is no number.
    """
    return Embeddings.load(Path(path))
