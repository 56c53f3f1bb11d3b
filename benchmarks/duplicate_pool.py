"""2,000 photographic JPEGs with planted copies: 1,600 distinct, 200 exact copies, 200 near copies.

A distinct image joins two parts of two photographs along a soft line, so that no two show the same scene. A near copy
is the original at 90% of its size, 8% brighter, at JPEG quality 50.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375
DISTINCT, EXACT, NEAR = 1_600, 200, 200


def lay_out(folder: Path, distinct: int = DISTINCT, exact: int = EXACT, near: int = NEAR) -> dict[frozenset[str], str]:
    """Write the images; returns the planted pairs of names and their kind."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    photographs = _photographs()
    planted: dict[frozenset[str], str] = {}
    chosen = generator.choice(distinct, exact + near, replace=False)
    copied = {int(number): place for place, number in enumerate(chosen)}
    for number in range(distinct):
        image = _scene(photographs, generator)
        name = f"{number:04d}.jpg"
        data = _jpeg(image, 90)
        (folder / name).write_bytes(data)
        place = copied.get(number)
        if place is None:
            continue
        kind = "exact" if place < exact else "near"
        twin = f"{kind}_{place:04d}.jpg"
        (folder / twin).write_bytes(data if kind == "exact" else _near_copy(image))
        planted[frozenset((name, twin))] = kind
    return planted


def _photographs() -> list[Image.Image]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    pixels = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), *load_sample_images().images]
    return [Image.fromarray(p) for p in pixels]


def _scene(photographs: list[Image.Image], generator: np.random.Generator) -> Image.Image:
    """Two parts of photographs, one at each side of a soft line."""
    sides = []
    for index in generator.choice(len(photographs), 2, replace=False):
        photograph = photographs[index]
        width = int(generator.uniform(0.25, 0.6) * photograph.width)
        height = min(width * HEIGHT // WIDTH, photograph.height)
        x, y = generator.integers(photograph.width - width + 1), generator.integers(photograph.height - height + 1)
        part = photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (x, y, x + width, y + height))
        if generator.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sides.append(np.asarray(part, dtype=np.float32))
    angle, shift = generator.uniform(0, 2 * np.pi), generator.uniform(-0.2, 0.2)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, WIDTH), np.linspace(-0.5, 0.5, HEIGHT))
    share = 1 / (1 + np.exp(-30 * (x * np.cos(angle) + y * np.sin(angle) - shift)))[..., None]
    return Image.fromarray((sides[0] * share + sides[1] * (1 - share)).astype(np.uint8))


def _near_copy(image: Image.Image) -> bytes:
    smaller = image.resize((int(WIDTH * 0.9), int(HEIGHT * 0.9)), Image.Resampling.BICUBIC)
    brighter = np.clip(np.asarray(smaller, dtype=np.float32) * 1.08, 0, 255)
    return _jpeg(Image.fromarray(brighter.astype(np.uint8)), 50)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
