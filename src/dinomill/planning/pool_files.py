"""Which files a pool has, some of them drawn, and the sizes that their headers say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.errors import InputError
from dinomill.images.decode import MAX_PIXELS
from dinomill.images.listing import Item, list_items
from dinomill.images.tiles import TileConfig
from dinomill.storage import s3


def list_all(
    locations: Sequence[str], tiles: Mapping[str, TileConfig] = MappingProxyType({})
) -> list[tuple[str, Item]]:
    """Every file of the locations, or every tile of its images where they are cut; sorted.

    Raises:
        InputError: When a location is missing.
    """
    return [(location, item) for location in sorted(locations) for item in list_place(location, tiles.get(location))]


def list_place(location: str, tiles: TileConfig | None = None) -> list[Item]:
    """Every file, or tile, of one location.

    Raises:
        InputError: When it is missing, or is a manifest that cannot be read.
        StorageError: When S3 does not answer or refuses.
    """
    try:
        return list_items(location, tiles)
    except (OSError, ValueError) as error:  # a damaged Parquet or CSV file says so in its reader's own words
        raise InputError(
            f"{location} cannot be read.",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="a folder of images, a .tar, a .parquet or .csv manifest, or s3://bucket/prefix",
            action="write it again, or name the folder that holds the images",
        ) from None


def draw(found: Sequence[tuple[str, Item]], count: int, seed: int = 0) -> list[tuple[str, Item]]:
    """Some of the files, drawn at random but the same each time, in their order."""
    if len(found) <= count:
        return list(found)
    rows = np.random.default_rng(seed).choice(len(found), count, replace=False)
    return [found[row] for row in np.sort(rows)]


def header_pixels(found: Sequence[tuple[str, Item]], workers: int = 1) -> npt.NDArray[np.float64]:
    """Width times height of local files, by their headers; what is no image, or too large, is left out."""

    def read(place: tuple[str, Item]) -> int:
        source, item = place
        if item.fault or item.offset != -1 or s3.is_uri(source):
            return 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(item.place or Path(source) / item.path) as image:
                    width, height = image.size
        except Exception:  # Pillow's readers raise many types on what is no image
            return 0
        return width * height if width * height <= MAX_PIXELS else 0

    with ThreadPoolExecutor(max(workers, 1)) as threads:
        pixels = np.array(list(threads.map(read, found)), dtype=np.float64)
    return pixels[pixels > 0]
