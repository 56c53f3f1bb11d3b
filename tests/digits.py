"""A labelled set of real digits in two splits, small enough for seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def lay_out(root: Path, *, bank: int = 300, queries: int = 120) -> Path:
    """Write ``<root>/train|test/digit <n>/<number>.png`` and return the root."""
    digits = load_digits()
    for index in range(bank + queries):
        split = "train" if index < bank else "test"
        folder = root / split / f"digit {digits.target[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[index] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).resize((16, 16)).save(folder / f"{index:04d}.png")
    return root
