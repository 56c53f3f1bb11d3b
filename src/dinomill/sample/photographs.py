"""Tiles of the photographs that come inside scikit-image and scikit-learn: nothing is shipped, nothing fetched.

A photograph is cut into three bands from left to right, which share no pixel: what the pool is made of, what the
labelled bank, and what the labelled queries. Tiles overlap within a band, never across.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels
from dinomill.errors import MachineError

Random = np.random.Generator
Band = Literal["pool", "bank", "queries"]

SIDE = 32
# Pixels from one place where a tile may lie to the next.
_STEP = 8
# Standard deviation of the luminance, of 255, under which a tile shows nothing that would tell whose it is: black sky,
# plain background, a cheek.
MIN_CONTRAST = 4.0
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_BANDS: dict[Band, tuple[float, float]] = {"pool": (0.0, 0.5), "bank": (0.5, 0.75), "queries": (0.75, 1.0)}

# name: (package, file in the wheel). CC0 or public domain, "no known copyright restrictions" for coins and ihc, and
# CC-BY 2.0 for china and flower (credited in NOTICE). Of each package only what lies in its wheel.
_FILES = {
    "astronaut": ("skimage", "astronaut.png"),
    "brick": ("skimage", "brick.png"),
    "camera": ("skimage", "camera.png"),
    "chelsea": ("skimage", "chelsea.png"),
    "china": ("sklearn", "china.jpg"),
    "coffee": ("skimage", "coffee.png"),
    "coins": ("skimage", "coins.png"),
    "flower": ("sklearn", "flower.jpg"),
    "grass": ("skimage", "grass.png"),
    "gravel": ("skimage", "gravel.png"),
    "hubble": ("skimage", "hubble_deep_field.jpg"),
    "immunohistochemistry": ("skimage", "ihc.png"),
    "retina": ("skimage", "retina.jpg"),
    "rocket": ("skimage", "rocket.jpg"),
}
NAMES = tuple(_FILES)
# The two largest: a survey of the sky and a scan of a retina arrive whole elsewhere, too.
SCENES = ("hubble", "retina")


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of one band of a photograph lie: ``places [N, 2]`` of (y, x), those that show something."""

    photograph: Pixels
    places: npt.NDArray[np.int64]

    def cut(self, index: int) -> Pixels:
        """One tile, ``[32, 32]`` or ``[32, 32, 3]``."""
        y, x = (int(value) for value in self.places[index])
        return self.photograph[y : y + SIDE, x : x + SIDE]


@lru_cache(maxsize=len(NAMES))
def photograph(name: str) -> Pixels:
    """A photograph as it comes, ``[H, W]`` or ``[H, W, 3]``.

    Raises:
        MachineError: When the package does not carry it.
    """
    from PIL import Image

    path = _folder(_FILES[name][0]) / _FILES[name][1]
    if not path.is_file():
        raise MachineError(
            f"The photograph {name} is not there.",
            found=f"no {path}",
            expected="scikit-image and scikit-learn as their wheels are published: both carry photographs",
            action="install them again: `make setup`",
        )
    with Image.open(path) as image:
        return np.asarray(image)


def tiles(name: str, band: Band) -> Tiles:
    """The tiles of a band that show something.

    Args:
        name: One of ``NAMES``.
        band: Which part of the photograph.
    """
    pixels = photograph(name)
    left, right = _columns(pixels.shape[1], band)
    grey = pixels[:, left:right].astype(np.float32)
    grey = grey if grey.ndim == 2 else grey @ _LUMINANCE
    windows = np.lib.stride_tricks.sliding_window_view(grey, (SIDE, SIDE))[::_STEP, ::_STEP]
    places = np.argwhere(windows.std(axis=(2, 3)) >= MIN_CONTRAST) * _STEP
    return Tiles(pixels, places + np.array([0, left]))


def scene(name: str) -> Pixels:
    """The pool's band of a photograph, whole."""
    return band(name, "pool")


def band(name: str, of: Band) -> Pixels:
    """One band of a photograph, whole."""
    pixels = photograph(name)
    left, right = _columns(pixels.shape[1], of)
    return pixels[:, left:right]


def seen_otherwise(pixels: Pixels, random: Random) -> Pixels:
    """A tile as another camera would show it: mirrored or not, darker or brighter by up to a half."""
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    gain = float(np.exp(random.uniform(-1, 1) * np.log(1.5)))
    brighter: Pixels = np.clip(np.rint(pixels * gain), 0, 255).astype(np.uint8)
    return brighter


def _columns(width: int, band: Band) -> tuple[int, int]:
    start, end = _BANDS[band]
    return int(start * width), int(end * width)


def _folder(package: str) -> Path:
    import skimage
    import sklearn.datasets

    if package == "skimage":
        return Path(skimage.__file__).parent / "data"
    return Path(sklearn.datasets.__file__).parent / "images"
