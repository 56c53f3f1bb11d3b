"""`dinomill search`: the images of an embeddings file that are nearest to a query, by cosine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinomill.commands.embed import load_predictor
from dinomill.commands.embed_sources import shown
from dinomill.embeddings.file import Embeddings
from dinomill.errors import InputError
from dinomill.images.decode_error import DecodeError
from dinomill.layers import env_option


def search(
    query: Path, index: Path, *, count: int, model: str | None, env: str | None = None
) -> list[tuple[float, str]]:
    """Find the nearest images.

    Args:
        query: An image file.
        index: A file that `dinomill embed` wrote.
        count: How many to return at most.
        model: The model to embed the query with; by default the one that made the file.
        env: The environment whose registered version is meant, where the file does not say what made it.

    Returns:
        Cosine and path, the nearest first.

    Raises:
        InputError: When a file is missing, or the model is not the one that made the file.
    """
    known = Embeddings.load(index)
    if not query.is_file():
        raise InputError(f"There is no image {query}.", action="correct the path")
    # At the size at which the file was made, or the same picture would not be like itself.
    name, embed = load_predictor(
        model or known.model or None, known.image_size, env, backend=known.backend, made=known.identity
    )
    if known.identity is not None and known.identity != embed.identity:
        raise InputError(
            f"{name} is not the network that made {index}.",
            found="other weights, another preprocessing or pooling: cosines between the two would mean nothing",
            expected=f"{known.model}, as it was when the file was made",
            action="name that network where it still is, a registered version by its number "
            f"(--model models:/NAME/1, `dinomill versions{env_option(env)}` lists them), or embed the images again: "
            f"dinomill embed FOLDER --output {index}",
        )
    try:
        vector = embed([query.read_bytes()])[0]
    except DecodeError as error:
        raise InputError(
            f"{query} cannot be used as an image.",
            found=f"{error.reason}: {error.detail}",
            action="give another picture",
        ) from None
    if vector.shape[0] != known.vectors.shape[1]:
        raise InputError(
            f"{name} does not fit {index}.",
            found=f"embeddings of width {vector.shape[0]}",
            expected=f"width {known.vectors.shape[1]}, as {known.model or 'the model that made the file'} gives",
            action="name that model with --model, or embed the images again",
        )
    cosines = _unit(known.vectors) @ _unit(vector)
    best = np.argsort(-cosines, kind="stable")[:count]
    return [(float(cosines[row]), known.paths[row]) for row in best]


def show(found: list[tuple[float, str]]) -> None:
    """Print one line an image: cosine and path, for people and for `cut -f2`; control characters are escaped."""
    for cosine, path in found:
        print(f"{cosine:.4f}\t{shown(path)}")


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
