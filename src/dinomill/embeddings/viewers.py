"""Embeddings in the tools that people look at their images with: FiftyOne, LightlyStudio."""

from __future__ import annotations

from typing import Any

import numpy as np

from dinomill.embeddings.file import Embeddings
from dinomill.errors import InputError


def into_fiftyone(samples: Any, embeddings: Embeddings, field: str = "embedding") -> int:
    """Write each sample's embedding into a field, from where FiftyOne Brain takes it (``embeddings=field``).

    Args:
        samples: A dataset or view of FiftyOne.
        embeddings: Of its images, and perhaps of others.
        field: Where they go.

    Returns:
        How many samples have one now.

    Raises:
        InputError: When none of its images has one.
    """
    vectors = embeddings.by_path()
    found = {path: vectors[path] for path in samples.values("filepath") if path in vectors}
    _require_some(len(found), samples.count(), embeddings)
    samples.set_values(field, found, key_field="filepath")
    return len(found)


def for_lightly_studio(embeddings: Embeddings) -> Any:
    """An embedder for ``lightly_studio.register_default_embedder`` that looks embeddings up instead of computing them.

    Args:
        embeddings: Of the images that will be added. One that it does not know is left without.
    """
    import lightly_studio as studio
    from lightly_studio_serve.embedder import ImagePathEmbedder

    vectors, width = embeddings.by_path(), embeddings.vectors.shape[1]

    class Known(ImagePathEmbedder):  # type: ignore[misc]
        """What `dinomill embed` wrote."""

        def embedding_space_spec(self) -> Any:
            return studio.EmbeddingSpaceSpec(space_key=f"dinomill/{embeddings.space}", dimension=width)

        def embed_images(self, paths: list[str]) -> Any:
            kept = [number for number, path in enumerate(paths) if path in vectors]
            rows = [vectors[paths[number]] for number in kept]
            stacked = np.stack(rows) if rows else np.empty((0, width), np.float32)
            return studio.EmbeddingResult(embeddings=stacked, kept_indices=kept)

    return Known()


def _require_some(found: int, asked: int, embeddings: Embeddings) -> None:
    if not found:
        raise InputError(
            f"None of the {asked:,} images has an embedding in this file.",
            found=f"the first embedding is of {embeddings.paths[0]}" if embeddings.paths else "no embeddings",
            expected="the same files at the same places",
            action="embed the folder that these images lie in: dinomill embed FOLDER --output FILE",
        )
