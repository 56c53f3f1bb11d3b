"""More than an embedding of an image: tokens, class scores, nearest curated images, a picture of its patches.

What lies in an archive beside the weights, each optional:

    probe.safetensors    a linear probe: see ``features.probe``
    index.safetensors    unit vectors [N, E] float16 of curated images
    index.json           for each of them path, sha256 and cluster: where it came from
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.storage.tensor_file import read_tensors, write_tensors

View = Literal["embedding", "cls", "mean_patch", "patches", "scores", "neighbours", "pca"]
VIEWS: tuple[View, ...] = get_args(View)
INDEX, INDEX_ROWS = "index.safetensors", "index.json"
NEIGHBOURS = 10
PICTURE = 224  # pixels a side, at least, of the picture of patches


def parse_views(told: Any) -> tuple[View, ...]:
    """What a request wants to see: a list of names, or one text with commas.

    Raises:
        InputError: When one of them is none.
    """
    names = told.split(",") if isinstance(told, str) else told
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError("What is wanted is no list of names.", expected=", ".join(VIEWS))
    found: list[View] = []
    for name in dict.fromkeys(one.strip() for one in names):
        known = next((view for view in VIEWS if view == name), None)
        if known is None:
            raise InputError("Something is wanted that does not exist.", expected=", ".join(VIEWS))
        found.append(known)
    return tuple(found)


@dataclass(frozen=True)
class Index:
    """Curated images by their embeddings.

    Args:
        vectors: ``[N, E]`` float16, each of length 1.
        rows: Where each came from: path, sha256, cluster.
    """

    vectors: np.ndarray[Any, Any]
    rows: Sequence[Mapping[str, Any]]

    def __call__(self, embedding: Floats, count: int = NEIGHBOURS) -> list[dict[str, Any]]:
        """The most similar rows to an embedding ``[E]``, the most similar first, with their cosines."""
        unit = embedding / max(float(np.linalg.norm(embedding)), 1e-12)
        # A piece at a time: a product with half-precision numbers makes single-precision ones of all of them.
        pieces = [
            self.vectors[start : start + 65_536].astype(np.float32) @ unit for start in range(0, len(self.rows), 65_536)
        ]
        cosines = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
        order = np.argsort(-cosines, kind="stable")[:count]
        return [{**self.rows[number], "cosine": round(float(cosines[number]), 5)} for number in order]

    @classmethod
    def build(cls, embeddings: Floats, rows: Sequence[Mapping[str, Any]]) -> Index:
        """Of embeddings ``[N, E]`` and where each came from."""
        norms = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return cls((embeddings / norms).astype(np.float16), list(rows))

    @classmethod
    def read(cls, folder: Path, width: int) -> Index:
        """The index in a folder.

        Raises:
            InputError: When its files do not fit each other or the network.
        """
        tensors, _ = read_tensors(folder / INDEX)
        try:
            rows = json.loads((folder / INDEX_ROWS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder / INDEX_ROWS} cannot be read.", found=str(error)) from None
        vectors = tensors.get("vectors")
        if vectors is None or vectors.shape != (len(rows), width):
            found = "no vectors" if vectors is None else str(list(vectors.shape))
            raise InputError(f"{folder / INDEX} does not fit.", found=found, expected=f"[{len(rows)}, {width}]")
        return cls(vectors, rows)

    def save(self, folder: Path) -> None:
        """Write both files."""
        write_tensors(folder / INDEX, {"vectors": self.vectors}, {})
        (folder / INDEX_ROWS).write_text(json.dumps(list(self.rows)), encoding="utf-8")


def picture_of(patches: Floats) -> bytes:
    """A PNG of the first three principal components of an image's patches ``[rows, columns, D]``, as red, green, blue.

    Each component is turned so that its larger half is positive, so that the same image gives the same picture.
    """
    import io

    from PIL import Image

    rows, columns, width = patches.shape
    centred = patches.reshape(-1, width).astype(np.float64)
    centred = centred - centred.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    parts = np.zeros((rows * columns, 3))
    kept = min(3, len(scale))
    parts[:, :kept] = left[:, :kept] * scale[:kept]
    parts *= np.where(np.abs(parts.min(axis=0)) > parts.max(axis=0), -1.0, 1.0)
    low, high = np.quantile(parts, [0.01, 0.99], axis=0)
    shown = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    pixels = (255 * shown).round().astype(np.uint8).reshape(rows, columns, 3)
    times = max(1, -(-PICTURE // max(rows, columns)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((columns * times, rows * times), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
