"""From a row of the dataset to pixels: its bytes out of a shard, decoded as large as its crops need it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels
from dinomill.errors import InputError
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.manifest import KeptImages
from dinomill.images.shards import ImageSource, Location

_STILL_REDUCED = 1.5


class UnreadableError(Exception):
    """An image cannot be had: its shard is gone or cut, its bytes are damaged. Training goes on with another."""


class Fetcher:
    """Reads and decodes images by row. Threads may share one; processes get their own copy.

    Args:
        images: Where the dataset's images lie.
        source: Where their bytes come from.
        crops: What is cut from them.
        channels: Of the dataset.
        value_range: Of files of more than 8 bits.
        cache_bytes: Decoded images are kept in memory when all of them fit in this.
    """

    def __init__(
        self,
        images: KeptImages,
        source: ImageSource,
        crops: MultiCropConfig,
        channels: int,
        value_range: tuple[float, float] | None,
        cache_bytes: int,
    ) -> None:
        self.images = images
        self.source = source
        self.crops = crops
        self.channels = channels
        self.value_range = value_range
        # Larger images are decoded at the scale that their crops need, so nothing of them can be kept.
        self._whole_side = 2 * crops.global_size
        fits = int(images.sizes.prod(axis=1).sum()) * channels <= cache_bytes
        self._cache: dict[int, Pixels] | None = {} if fits else None

    def prepare(self, rows: Iterable[int]) -> None:
        """Say which images come next."""
        self.source.prepare([self.place(row) for row in rows if self._cache is None or row not in self._cache])

    def place(self, row: int) -> Location:
        """Where an image's bytes lie."""
        return Location(*(int(v[row]) for v in (self.images.shards, self.images.offsets, self.images.lengths)))

    def path(self, row: int) -> str:
        """An image's name."""
        return str(self.images.paths[row])

    def decode(self, row: int, boxes: npt.NDArray[np.int64]) -> Pixels:
        """The pixels of an image.

        Args:
            row: Of the dataset.
            boxes: ``[V, 4]``, moved in place to the pixels when these are smaller than the original.

        Raises:
            UnreadableError: With the reason.
            StorageError: When a store far away does not answer.
        """
        if self._cache is not None and (kept := self._cache.get(row)) is not None:
            return kept
        height, width = (int(v) for v in self.images.sizes[row])
        reduce = min(height, width) > self._whole_side
        factor = _factor_allowed(boxes, self.crops) if reduce else 1
        pixels = self._read(row, min(height, width) // factor if factor > 1 else None)
        if reduce:
            pixels = _reduce(pixels, factor, max(height, width))
        if not all(
            n // factor <= found <= -(-n // factor) for n, found in zip((height, width), pixels.shape[:2], strict=True)
        ):
            raise UnreadableError(
                f"{pixels.shape[1]}×{pixels.shape[0]} pixels, not {width}×{height} as in the manifest"
            )
        if reduce:
            boxes[:] = _moved(boxes, factor, pixels.shape[:2])
        elif self._cache is not None:
            self._cache[row] = pixels
        return pixels

    def _read(self, row: int, min_side: int | None) -> Pixels:
        return read_pixels(
            self.source,
            self.place(row),
            channels=self.channels,
            value_range=self.value_range,
            min_side=min_side,
        )


def read_pixels(
    source: ImageSource,
    place: Location,
    *,
    channels: int,
    value_range: tuple[float, float] | None,
    min_side: int | None,
) -> Pixels:
    """An image out of its shard, decoded; see ``decode_image``.

    Raises:
        UnreadableError: With the reason.
        StorageError: When a store far away does not answer.
    """
    try:
        return decode_image(source.read(place), channels=channels, value_range=value_range, min_side=min_side)
    except DecodeError as error:
        raise UnreadableError(f"{error.countable}: {error.detail}") from None
    except InputError as error:
        raise UnreadableError(f"{error.problem} {error.found or ''}".strip()) from None
    except OSError as error:
        raise UnreadableError(str(error)) from None


def _factor_allowed(boxes: npt.NDArray[np.int64], crops: MultiCropConfig) -> int:
    """By how much an image may be reduced before its crops ``[V, 4]`` are cut: every one must then still be reduced.

    What JPEG's decoder makes at half size is sharper than an antialiased picture. Measured on 1/f noise, mean distance
    from Pillow's crop of the whole picture: 6.4 of 255 where nothing is left to reduce, 3.2 at 1.35, 2.6 at 1.5.
    """
    reduction = float((boxes[:, 2:].min(axis=1) / np.array(crops.sizes)).min())
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or reduction >= _STILL_REDUCED * factor)


def _reduce(pixels: Pixels, factor: int, side: int) -> Pixels:
    """Halve an image until it has 1/factor of its size, for formats without scaled decoding.

    Args:
        pixels: As decoded, perhaps smaller already.
        factor: A power of two.
        side: The longer side of the original, pixels.
    """
    import cv2

    while round(side / max(pixels.shape[:2])) < factor:
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        # An odd last line is left out: stretched over it, the means of four would be those of other pixels.
        halved: Any = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        pixels = halved.reshape(height, width, -1)
    return pixels


def _moved(boxes: npt.NDArray[np.int64], factor: int, actual: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Boxes ``[V, 4]`` of the original in the pixels of its reduced copy: they come to lie on its grid."""
    limits = np.array(actual)
    moved: npt.NDArray[np.int64] = np.rint(boxes / factor).astype(np.int64)
    moved[:, 2:] = np.clip(moved[:, 2:], 1, limits)
    moved[:, :2] = np.minimum(moved[:, :2], limits - moved[:, 2:])
    return moved
