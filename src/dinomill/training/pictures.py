"""What a look sees, drawn small: images, the colours of their patches, and the images nearest to them.

A picture a quarter of the run: side by side they show how features come to tell things apart, or cease to. Colours are
turned to those of the picture before (``turned_like``): else the same thing would be green at one look and red at the
next.

<work>/looks/look_00000080.jpg       the picture
<work>/looks/colours_00000080.npy    [P, h, w, 3] float32, what its colours were made of
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dinomill.arrays import Figures, Floats, Pixels
from dinomill.storage.atomic import atomic_file
from dinomill.vectors.colours import as_colours, principal, turned_like
from dinomill.vectors.knn import nearest

ROWS, NEIGHBOURS = 6, 6
_SIDE, _GAP = 64, 4  # pixels
_PARTS = 4


def name(step: int) -> str:
    """The file's name."""
    return f"look_{step:08d}.jpg"


def due(step: int, before: Sequence[int], steps: int) -> bool:
    """Whether a look is drawn: the first one, the first of each quarter of the run, and the last."""
    reached = [_PARTS * one // max(steps, 1) for one in before]
    return step >= steps or _PARTS * step // max(steps, 1) not in reached


def colours_name(step: int) -> str:
    """The file of what a picture's colours were made of."""
    return f"colours_{step:08d}.npy"


def draw(folder: Path, step: int, images: Tensor, embeddings: Tensor, patches: Tensor) -> None:
    """Write a row an image: itself, its patches, its nearest neighbours.

    Args:
        folder: ``<work>/looks``.
        step: Of the look.
        images: ``[N, C, S, S]`` uint8: those of this process, of which the first batch are the set's first.
        embeddings: ``[M, D]`` of the whole set.
        patches: ``[P, n, D]`` of its first P images.
    """
    # The first batch of the main process are the first images of the set, so that rows of both mean the same.
    count = min(len(images), len(embeddings))
    rows = min(ROWS, len(patches), count)
    _, neighbours = nearest(embeddings[:rows], embeddings[:count], NEIGHBOURS, exclude_self=True)
    grid = math.isqrt(patches.shape[1])
    colours = as_colours(_components(folder, step, patches.reshape(len(patches), grid, grid, -1).numpy()))
    shown = [_rgb(image) for image in images[:count].numpy()]
    lines = []
    for row in range(rows):
        tiles = [shown[row], colours[row], *(shown[other] for other in neighbours[row].tolist())]
        lines.append(np.concatenate([_tile(tile, first=number < 2) for number, tile in enumerate(tiles)], axis=1))
    with atomic_file(folder / name(step)) as partial, partial.open("wb") as file:
        Image.fromarray(np.concatenate(lines, axis=0)).save(file, "JPEG", quality=88)


def _components(folder: Path, step: int, tokens: Floats) -> Figures:
    """The colours' components, turned to those of the last picture before; they are kept for the next one."""
    components, _ = principal(tokens)
    kept = [path for path in folder.glob(colours_name(0).replace("0" * 8, "*")) if path.name < colours_name(step)]
    for path in sorted(kept, reverse=True)[:1]:
        # A file that was lost, or is of other images: this picture has colours of its own.
        with suppress(OSError, ValueError):
            before = np.load(path, allow_pickle=False)
            if before.shape == components.shape:
                components = turned_like(components, before.astype(np.float64))
    with atomic_file(folder / colours_name(step)) as partial, partial.open("wb") as file:
        np.save(file, components.astype(np.float32), allow_pickle=False)
    return components


def _rgb(image: Pixels) -> Pixels:
    planes = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    return planes.transpose(1, 2, 0)


def _tile(pixels: Pixels, *, first: bool) -> Pixels:
    """A square with a white margin to the right and below; wider after what is no neighbour."""
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    right = 2 * _GAP if first else _GAP
    return np.pad(np.asarray(resized), ((0, _GAP), (0, right), (0, 0)), constant_values=255)
