"""Which files a pool has, some of them drawn, and the sizes that their headers say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.errors import InputError
from dinomill.images.decode import MAX_PIXELS
from dinomill.images.image_info import ImageInfo
from dinomill.images.listing import Item, list_items
from dinomill.images.tiles import TileConfig
from dinomill.storage import s3

TIFF_HEADS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_PLAIN, _ALPHA, _DEEP = 13.5, 15.5, 30.0  # bytes a pixel


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


class Headers(NamedTuple):
    """What the headers of local files say; what is no image, or too large, is left out."""

    pixels: npt.NDArray[np.float64]  # width times height, [n]
    bytes: npt.NDArray[np.float64]  # that decoding takes, [n]


def read_headers(found: Sequence[tuple[str, Item]], workers: int = 1) -> Headers:
    """Sizes of local files; tiles of large images are read in windows and say nothing of their picture."""

    def read(place: tuple[str, Item]) -> tuple[float, float]:
        source, item = place
        if item.fault or item.offset != -1 or s3.is_uri(source):
            return 0, 0
        info = _header(Path(item.place or Path(source) / item.path))
        if info is None or (pixels := info.width * info.height) > MAX_PIXELS:
            return 0, 0
        return pixels, decoding_bytes(info)

    with ThreadPoolExecutor(max(workers, 1)) as threads:
        both = np.array(list(threads.map(read, found)), dtype=np.float64).reshape(-1, 2)
    both = both[both[:, 0] > 0]
    return Headers(both[:, 0], both[:, 1])


def decoding_bytes(info: ImageInfo) -> float:
    """Memory that decoding an image takes at most, with what is computed of it; measured at 36 million pixels."""
    pixels = info.width * info.height
    if info.format == "JPEG":  # made smaller meanwhile
        return pixels * 3 / 16
    if info.is_deep:
        return pixels * _DEEP
    return pixels * (_ALPHA if info.mode in ALPHA_MODES else _PLAIN)


def _header(path: Path) -> ImageInfo | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return ImageInfo(image.format or "", *image.size, image.mode, 1)
    except Exception:  # Pillow's readers raise many types on what is no image
        return _tiff_header(path)


def _tiff_header(path: Path) -> ImageInfo | None:
    """Of a TIFF that Pillow does not know: colour of 16 bits, floats of several channels."""
    try:
        with path.open("rb") as file:
            if file.read(4) not in TIFF_HEADS:
                return None
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            return ImageInfo("TIFF", page.imagewidth, page.imagelength, str(page.dtype), 1)
    except Exception:  # as above
        return None
