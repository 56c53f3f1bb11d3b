"""One image file, looked at once: is it usable, what is it, what does it look like."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from dinomill.config import Config
from dinomill.curation.scan.signatures import (
    BRIGHTNESS,
    SIGNATURE_LENGTH,
    colours,
    measure,
    signature,
)
from dinomill.images.decode import MAX_PIXELS, DecodeError, decode_image, probe_image, stored_values
from dinomill.images.looks import perceptual_hash, thumbnail
from dinomill.images.pixels import luminance, to_channels

_KEPT_SEGMENT = 0xEE  # Adobe's says how colours are coded; all other application segments are metadata

EMPTY_TILE = "empty_tile"  # nothing is wrong with it, and nothing is to be seen


class PreflightConfig(Config):
    """What makes a file unusable, and at what size it is looked at."""

    min_side: int = Field(default=8, ge=1, description="pixels; a smaller image is left out")
    max_aspect: float = Field(
        default=20.0, gt=1, description="long side over short side; beyond it an image is left out"
    )
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, description="more are refused before they are decoded")
    value_range: tuple[float, float] | None = Field(
        default=None,
        description="stored values that are black and white, for files of more than 8 bits: [0, 4095] for 12-bit "
        "cameras; null: the type's whole range, floats 0 to 1. It goes with the dataset and the models",
    )
    min_tile_contrast: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="standard deviation of the luminance; a tile of a large image that has less shows nothing and is "
        "left out; 0 keeps them all",
    )
    look_side: int = Field(
        default=128,
        ge=64,
        description="pixels; a large JPEG is halved while it is decoded for as long as its short side stays above",
    )

    @field_validator("value_range")
    @classmethod
    def _in_order(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and not given[0] < given[1]:
            raise ValueError(f"black must lie below white: [{given[0]:g}, {given[1]:g}]")
        return given


class Rejected(Exception):
    """A file that cannot be used.

    Args:
        reason: Short and countable.
        detail: For people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


class Seen(NamedTuple):
    """A usable image: columns of scan.FILES_SCHEMA, and its signature with its colours."""

    columns: dict[str, Any]
    signature: npt.NDArray[np.int8]


def look_at(data: bytes, config: PreflightConfig, *, tile: bool = False) -> Seen:
    """Decode and measure the bytes of one file.

    Args:
        data: The file, or a tile as one.
        config: What is usable.
        tile: Whether it is cut from a larger picture: an empty one is left out.

    Raises:
        Rejected: When it is no usable image.
    """
    try:
        info = probe_image(data, max_pixels=config.max_pixels)
        shape = (info.width, info.height)
        if min(shape) < config.min_side:
            raise Rejected("too_small", f"{info.width}×{info.height} pixels; at least {config.min_side} a side")
        if max(shape) > config.max_aspect * min(shape):
            raise Rejected("absurd_aspect", f"{info.width}×{info.height} pixels; at most {config.max_aspect:g} to 1")
        stored = stored_values(data, max_pixels=config.max_pixels) if info.is_deep else None
        if stored is None:
            pixels = decode_image(data, min_side=config.look_side, max_pixels=config.max_pixels)
        else:
            pixels = to_channels(stored, 3, config.value_range)
    except DecodeError as error:
        raise Rejected(error.countable, error.detail) from None
    grey = luminance(pixels)
    quality = measure(grey)
    if tile and quality.contrast < config.min_tile_contrast:
        raise Rejected(EMPTY_TILE, f"contrast {quality.contrast:.4f}; at least {config.min_tile_contrast:g}")
    small = thumbnail(grey)
    means, squares, coloured = _channels(pixels)
    columns = {
        "pixels": _pixels_hash(data, info.format, pixels),
        "format": info.format,
        "width": info.width,
        "height": info.height,
        "mode": info.mode,
        "frames": info.frames,
        "channels": 3 if coloured else 1,
        "largest": None if stored is None else float(stored.max()),
        "phash": perceptual_hash(small),
        **quality._asdict(),
        "mean": means,
        "square": squares,
    }
    seen = np.zeros(SIGNATURE_LENGTH, dtype=np.int8)  # middle grey where there is no colour
    seen[:BRIGHTNESS] = signature(small)
    if coloured:
        seen[BRIGHTNESS:] = colours(pixels)
    return Seen(columns, seen)


def _channels(pixels: npt.NDArray[np.uint8]) -> tuple[list[float], list[float], bool]:
    """Mean and mean square of each channel in [0, 1], and whether there is any colour."""
    import cv2

    mean, deviation = (np.asarray(figure, dtype=np.float64).ravel() / 255 for figure in cv2.meanStdDev(pixels))
    equal = np.ptp(mean) == 0 and np.array_equal(pixels[..., 0], pixels[..., 1])
    coloured = not (equal and np.array_equal(pixels[..., 1], pixels[..., 2]))
    return mean.tolist(), (deviation**2 + mean**2).tolist(), coloured


def _pixels_hash(data: bytes, kind: str, pixels: npt.NDArray[np.uint8]) -> str:
    """Equal for files that show exactly the same: pixels, or for a JPEG its coded picture without the metadata.

    A JPEG's pixels depend on the size at which it was decoded; its coded picture does not.
    """
    if kind == "JPEG" and (parts := list(_picture_segments(data))):
        turned = "x".join(map(str, pixels.shape[:2]))  # the orientation lies in the metadata
        return hashlib.sha256(turned.encode() + b"".join(parts)).hexdigest()
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def _picture_segments(data: bytes) -> Iterator[bytes]:
    """The segments of a JPEG that decide what is seen; nothing when its structure is unusual."""
    position = 2
    kept: list[bytes] = []
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # the coded picture starts here and goes on to the end
            yield from kept
            yield data[position:]
            return
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker == _KEPT_SEGMENT:
            kept.append(data[position:end])
        position = end
