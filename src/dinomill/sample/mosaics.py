"""Mosaics: pictures of two to four photographs' parts, with masks that say exactly which pixel is of which.

<folder>/images/{train,test}/0000.png …    RGB
<folder>/masks/{train,test}/0000.png …     ids, in the order of ``classes.txt``; a palette for the eye
<folder>/classes.txt                       the photographs' names

Parts for ``train`` are cut from the bank's band of each photograph and parts for ``test`` from the queries', so that
no pixel is in both, as with the labelled tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dinomill.arrays import Pixels
from dinomill.sample.photographs import MIN_CONTRAST, NAMES, Band, band
from dinomill.storage.atomic import atomic_folder, write_text

Random = np.random.Generator

_SPLITS: dict[str, Band] = {"train": "bank", "test": "queries"}
_TRIES = 20  # for a part that shows something


def lay_out_mosaics(
    folder: Path, *, train: int, test: int, side: int = 96, classes: Sequence[str] = NAMES, seed: int = 0
) -> Path:
    """Write them whole; the same numbers give the same files.

    Args:
        folder: That is replaced.
        train: Pictures to learn from.
        test: Pictures to score.
        side: Of a picture, pixels.
        classes: Photographs, the classes.
        seed: Another seed, other mosaics.

    Raises:
        MachineError: When a package does not carry its photographs.
    """
    with atomic_folder(folder) as temporary:
        write_text(temporary / "classes.txt", "\n".join(classes) + "\n")
        for split, count in (("train", train), ("test", test)):
            for kind in ("images", "masks"):
                (temporary / kind / split).mkdir(parents=True)
            for number in range(count):
                random = np.random.default_rng([seed, len(split), number])
                pixels, ids = mosaic(classes, _SPLITS[split], side, random)
                Image.fromarray(pixels).save(temporary / "images" / split / f"{number:04d}.png")
                mask = Image.fromarray(ids)
                mask.putpalette(_palette(len(classes)))
                mask.save(temporary / "masks" / split / f"{number:04d}.png")
    return folder


def mosaic(classes: Sequence[str], of: Band, side: int, random: Random) -> tuple[Pixels, Pixels]:
    """One picture ``[S, S, 3]`` and its ids ``[S, S]``.

    Args:
        classes: Photographs to take parts of.
        of: Which part of each photograph.
        side: Pixels.
        random: Draws photographs, parts and regions.
    """
    count = min(int(random.integers(2, 5)), len(classes))
    chosen = random.choice(len(classes), count, replace=False)
    # Regions are what is nearest to each of some points, as stones lie.
    points = random.uniform(0, side, (count, 2))
    y, x = np.mgrid[:side, :side] + 0.5
    region = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(axis=2)
    pixels = np.zeros((side, side, 3), np.uint8)
    for place, index in enumerate(chosen):
        pixels[region == place] = _part(classes[index], of, side, random)[region == place]
    return pixels, chosen[region].astype(np.uint8)


def _part(name: str, of: Band, side: int, random: Random) -> Pixels:
    """A square of a photograph that shows something, in colour."""
    pixels = band(name, of)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if min(pixels.shape[:2]) < side:  # mirrored on, where the band is narrow
        missing = [max(side - length, 0) for length in pixels.shape[:2]]
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    for _ in range(_TRIES):
        top, left = (int(random.integers(length - side + 1)) for length in pixels.shape[:2])
        part = pixels[top : top + side, left : left + side]
        if part.mean(axis=2).std() >= MIN_CONTRAST:
            break
    return part


def _palette(count: int) -> list[int]:
    from matplotlib import colormaps

    colours = [colormaps["tab20"](index)[:3] for index in range(20)]
    return [round(255 * value) for index in range(count) for value in colours[index % len(colours)]]
