"""What the images are: all are counted, some hundreds are looked at.

The sample is a function of the sorted list of files and a seed, so that the same pool gives the same plan.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.scan.preflight import EMPTY_TILE
from dinomill.errors import DinomillError, InputError
from dinomill.execution.progress import progress
from dinomill.images.pixels import fitting_range, unlike_kinds
from dinomill.images.tiles import TileConfig
from dinomill.planning.pool_copies import copied_share
from dinomill.planning.pool_files import ALPHA_MODES, Headers, decoding_bytes, draw, list_all, read_headers
from dinomill.planning.pool_look import Look, look
from dinomill.vectors.rows import unit

SAMPLE = 384
HEADERS = 20_000  # whose size is looked at: one huge picture decides the memory, and is in no sample of hundreds
_EIGHT_BITS = ("1", "L", "P", "RGB", "YCbCr", "CMYK", "LAB", "HSV", "uint8", *ALPHA_MODES)


class Spread(Config):
    """How a figure is spread over the images."""

    smallest: float
    low: float = Field(description="a twentieth of the images lies below")
    quarter: float = Field(description="a quarter of the images lies below")
    median: float
    high: float = Field(description="a twentieth of the images lies above")
    largest: float


class Pool(Config):
    """What was seen of the images of some locations."""

    locations: tuple[str, ...] = Field(description="folders, tars, manifests, s3:// prefixes")
    files: int = Field(ge=0, description="files found, whatever they are")
    bytes: int = Field(ge=0, description="of them all")
    sampled: int = Field(ge=1, description="files that were looked at")
    unreadable: dict[str, int] = Field(default_factory=dict, description="of the sampled ones, by reason")
    empty: int = Field(default=0, ge=0, description="of the sampled ones: tiles of large images that show nothing")
    short_side: Spread = Field(description="pixels")
    long_side: Spread = Field(description="pixels")
    aspect: Spread = Field(description="width over height")
    pixels_an_image: float = Field(default=0.0, ge=0, description="width times height, in the mean")
    largest_pixels: int = Field(default=0, ge=0, description="of the largest usable image")
    largest_bytes: float = Field(
        default=0.0, ge=0, description="memory that decoding takes of the image of which it takes most"
    )
    coloured: float = Field(ge=0, le=1, description="share of the images that show colour, whatever their format says")
    alpha: float = Field(ge=0, le=1, description="share of the images with a transparency channel")
    bits: dict[int, int] = Field(description="of the sampled images, by bits a channel")
    value_range: tuple[float, float] | None = Field(
        default=None,
        description="stored values to be shown as black and white, where the type's range would hide the pictures: of "
        "floats, and of 12 bits in files of 16",
    )
    unlike_kinds: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="kinds of files of more than 8 bits, with what is black and white in each, where no one range "
        "suits them all: 16-bit integers, floats",
    )
    formats: dict[str, int] = Field(description="of the sampled images, by file format")
    alignment: float = Field(
        description="mean correlation of two images, squeezed to 32 × 32, at equal brightness and contrast: 0 where "
        "anything may be anywhere, towards 1 where the same thing is always at the same place"
    )
    alikeness: float = Field(description="median correlation of an image's signature with its nearest in the sample")
    crowd: float = Field(description="median signature distance to the 16th nearest of the sample; small: all alike")
    copied: float = Field(default=0.0, ge=0, lt=1, description="share of the usable images that repeat another one")
    contrast: float = Field(description="median standard deviation of luminance, 0 to 1: near 0 where nothing shows")
    seconds_an_image: float = Field(ge=0, description="to read and decode one, on one processor")
    seconds: float = Field(ge=0, description="that this survey took")

    @property
    def unreadable_share(self) -> float:
        """Share of the files that are no usable image."""
        return sum(self.unreadable.values()) / self.sampled

    @property
    def images(self) -> int:
        """Usable images, counted where all were looked at, else estimated from the sample."""
        return round(self.files * (1 - self.unreadable_share - self.empty / self.sampled))

    @property
    def distinct(self) -> int:
        """Different pictures among the usable images: what is left to learn from without copies."""
        return max(round(self.images * (1 - self.copied)), min(self.images, 1))

    @property
    def bytes_an_image(self) -> float:
        """Of a file, in the mean."""
        return self.bytes / max(self.files, 1)

    def decoded_bytes(self, channels: int) -> float:
        """Of all images in memory, with so many channels."""
        return self.images * self.pixels_an_image * channels

    @property
    def channels(self) -> int:
        """3 where more than a twentieth of the images show colour, as curation decides it; else 1."""
        return 3 if self.coloured > 0.05 else 1


def survey(
    locations: Sequence[str],
    *,
    tiles: Mapping[str, TileConfig] = MappingProxyType({}),
    sample: int = SAMPLE,
    seed: int = 0,
    workers: int = 1,
) -> Pool:
    """Look at the images of some locations.

    Args:
        locations: Folders, tars, manifests, ``s3://`` prefixes.
        tiles: How the images of some of them are cut.
        sample: How many files are looked at, at most.
        seed: Of the draw.
        workers: Threads that decode.

    Raises:
        InputError: When a location is missing, or there is no usable image.
        StorageError: When S3 does not answer or refuses.
    """
    start = time.monotonic()
    found = list_all(locations, tiles)
    chosen = draw(found, sample, seed)
    looks: list[Look] = []
    unreadable: Counter[str] = Counter()
    with ThreadPoolExecutor(max(workers, 1)) as threads, progress("looking at images", len(chosen)) as bar:
        for seen in threads.map(lambda place: look(*place), chosen):
            bar.advance(1)
            if isinstance(seen, str):
                unreadable[seen] += 1
            else:
                looks.append(seen)
    if not looks:
        raise _nothing(locations, len(found), unreadable)
    figures = _figures(looks)
    usable = round(len(found) * len(looks) / len(chosen))
    figures["copied"] = copied_share([one.digest for one in looks], np.stack([one.small for one in looks]), usable)
    figures |= _corrected(figures, looks, read_headers(draw(found, HEADERS, seed), workers))
    return Pool(
        locations=tuple(locations),
        files=len(found),
        bytes=sum(item.size for _, item in found),
        sampled=len(chosen),
        empty=unreadable.pop(EMPTY_TILE, 0),
        unreadable=dict(sorted(unreadable.items())),
        **figures,
        seconds=time.monotonic() - start,
    )


def _corrected(figures: dict[str, Any], looks: Sequence[Look], headers: Headers) -> dict[str, Any]:
    """What the headers of all files know better than the sample: sizes, and the time that large pictures take."""
    sizes = np.array([look.info.width * look.info.height for look in looks], dtype=np.float64)
    largest = max(decoding_bytes(look.info) for look in looks)
    pixels = headers.pixels
    if not len(pixels):
        return {"largest_pixels": int(sizes.max()), "largest_bytes": largest}
    seconds = np.array([look.seconds for look in looks])
    spread = float(np.square(sizes - sizes.mean()).sum())
    slope = max(float(((sizes - sizes.mean()) * seconds).sum()) / spread, 0.0) if spread else 0.0
    return {
        "largest_pixels": int(max(pixels.max(), sizes.max())),
        "largest_bytes": max(float(headers.bytes.max()), largest),
        "pixels_an_image": float(pixels.mean()),
        "seconds_an_image": max(
            figures["seconds_an_image"] + slope * (float(pixels.mean()) - float(sizes.mean())), 1e-6
        ),
    }


def _figures(looks: Sequence[Look]) -> dict[str, Any]:
    """The fields of a Pool that come from the images looked at."""
    sides = np.array([(look.info.width, look.info.height) for look in looks], dtype=np.float64)
    alikeness, crowd = _neighbourhood(np.stack([look.mark for look in looks]))
    count = len(looks)
    deep = [(look.values, look.info.mode) for look in looks if look.values]
    return {
        "short_side": _spread(sides.min(axis=1)),
        "long_side": _spread(sides.max(axis=1)),
        "aspect": _spread(sides[:, 0] / sides[:, 1]),
        "pixels_an_image": float(sides.prod(axis=1).mean()),
        "coloured": sum(look.coloured for look in looks) / count,
        "alpha": sum(look.info.mode in ALPHA_MODES for look in looks) / count,
        "bits": dict(sorted(Counter(bits_of(look.info.mode) for look in looks).items())),
        "value_range": fitting_range(deep),
        "unlike_kinds": unlike_kinds(deep),
        "formats": dict(Counter(look.info.format for look in looks).most_common()),
        "alignment": alignment(np.stack([look.small for look in looks])),
        "alikeness": alikeness,
        "crowd": crowd,
        "contrast": float(np.median([look.contrast for look in looks])),
        "seconds_an_image": sum(look.seconds for look in looks) / count,
    }


def bits_of(mode: str) -> int:
    """Bits a channel of a Pillow mode or a NumPy type."""
    if mode in _EIGHT_BITS:
        return 8
    return 16 if "16" in mode else 32


def alignment(thumbnails: npt.NDArray[np.float32]) -> float:
    """Mean correlation of two different images ``[N, 32, 32]`` pixel by pixel; 0 for a single one."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 1e-6] / lengths[lengths > 1e-6, None]
    count = len(rows)
    if count < 2:
        return 0.0
    return float((np.square(rows.sum(axis=0)).sum() - count) / (count * (count - 1)))


def _neighbourhood(marks: npt.NDArray[np.int8]) -> tuple[float, float]:
    """Median correlation with the nearest other signature, and median distance to the 16th nearest."""
    if len(marks) < 2:
        return 0.0, 1.0
    rows = unit(marks)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -np.inf)
    ordered = np.sort(similar, axis=1)[:, ::-1]
    far = min(15, len(marks) - 2)
    return float(np.median(ordered[:, 0])), float(1 - np.median(ordered[:, far]))


def _spread(values: npt.NDArray[np.float64]) -> Spread:
    low, quarter, median, high = np.quantile(values, [0.05, 0.25, 0.5, 0.95])
    return Spread(
        smallest=float(values.min()),
        low=float(low),
        quarter=float(quarter),
        median=float(median),
        high=float(high),
        largest=float(values.max()),
    )


def _nothing(locations: Sequence[str], files: int, unreadable: Counter[str]) -> DinomillError:
    shown = ", ".join(str(Path(place)) if "://" not in place else place for place in locations)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in unreadable.most_common(4))
    return InputError(
        f"There is no usable image in {shown}.",
        found=f"{files:,} files; of those looked at: {reasons}" if files else "no file that may be an image",
        expected="a folder of images (searched recursively), a .tar, a .parquet or .csv manifest, or s3://bucket/prefix",
        action="name the place that holds the images",
    )
