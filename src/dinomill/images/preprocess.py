"""From decoded pixels to a network's input, for serving and evaluation alike: resize, centre crop, normalise.

The settings travel with the weights, as the section "preprocessing" of an exported ``config.json``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from dinomill.arrays import Floats, Pixels
from dinomill.config import Config
from dinomill.images.channels import with_channels
from dinomill.images.cut import Box
from dinomill.images.decode import MAX_PIXELS, decode_image
from dinomill.images.decode_error import memory_is_named
from dinomill.images.decoded_size import require_affordable

SECTION = "preprocessing"
_ELONGATED = 4  # long side over short side from which on only the centre is resized


class PreprocessingConfig(Config):
    """How an image becomes a network's input; the defaults are those of ImageNet evaluation."""

    image_size: int = Field(default=224, ge=1, description="side in pixels of the square that the network sees")
    resize: int = Field(default=256, ge=1, description="shorter side in pixels before the centre crop")
    mean: tuple[float, ...] = Field(default=(0.485, 0.456, 0.406), description="per channel, in [0, 1]")
    std: tuple[float, ...] = Field(default=(0.229, 0.224, 0.225), description="per channel, in [0, 1]; not 0")
    value_range: tuple[float, float] | None = Field(
        default=None, description="for 16-bit and floating-point files: stored values mapped to 0 and 1; null is all"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {min(self.std)}")
        if self.resize < self.image_size:
            raise ValueError(f"resize {self.resize} is smaller than image_size {self.image_size}")
        return self

    @classmethod
    def square(cls, image_size: int, mean: Sequence[float], std: Sequence[float], *, margin: float = 1.0) -> Self:
        """Settings for a model trained at ``image_size``.

        Args:
            image_size: Pixels.
            mean: Per channel, as measured by curation.
            std: Per channel.
            margin: Shorter side before the crop over ``image_size``: 1 keeps the borders, ImageNet's is 256 / 224.
        """
        return cls(image_size=image_size, resize=round(image_size * margin), mean=tuple(mean), std=tuple(std))

    @property
    def channels(self) -> int:
        """Channels that the network takes."""
        return len(self.mean)

    def section(self) -> dict[str, Any]:
        """What an exported ``config.json`` holds: ``{"preprocessing": …}``."""
        return {SECTION: self.model_dump(mode="json")}


def preprocess(pixels: Pixels, config: PreprocessingConfig) -> Floats:
    """Resize the shorter side (bicubic, smoothed when reduced), cut out the centre, normalise.

    Args:
        pixels: ``[H, W, C]`` uint8, as decoded; other channels and numbers become the network's, see ``channels``.
        config: The model's settings.

    Returns:
        ``[C, S, S]`` float32.

    Raises:
        DecodeError: When the pixels have other channels than the network takes, and cannot be given them.
    """
    pixels = with_channels(pixels, config.channels, config.value_range)
    return normalise(centre_square(pixels, config.resize, config.image_size), config)


def normalise(pixels: Pixels, config: PreprocessingConfig) -> Floats:
    """``[H, W, C]`` uint8 to ``[C, H, W]`` float32 by the network's mean and standard deviation."""
    gain = 1 / (255 * np.array(config.std, dtype=np.float32))
    offset = -np.array(config.mean, dtype=np.float32) / np.array(config.std, dtype=np.float32)
    normalised = pixels.astype(np.float32) * gain + offset
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def centre_square(pixels: Pixels, resize: int, side: int) -> Pixels:
    """The centre of an image after its shorter side was resized: ``[H, W, C]`` to ``[side, side, C]``, uint8.

    Memory follows from ``resize`` alone: of an elongated image (20,000 x 1 pixels would become 5,120,000 x 256) only
    the part that the centre is made of is resized. Its values are those of the whole but for rounding: one level, more
    where bicubic overshoot is clipped between the two passes, whose order Pillow chooses by size.
    """
    centre = Centre(resize, side)
    box = centre(*pixels.shape[:2])
    return centre.square(pixels[box.top : box.bottom, box.left : box.right])


class Centre:
    """The square that is cut out of an image's centre: of an elongated image it wants a part alone.

    Args:
        resize: Shorter side in pixels, before the cut.
        side: Of the square.
    """

    def __init__(self, resize: int, side: int) -> None:
        self._resize, self._side = resize, side

    def __call__(self, height: int, width: int) -> Box:
        """What is wanted of an image of that size."""
        scale = self._resize / min(height, width)
        new = (max(round(width * scale), self._resize), max(round(height * scale), self._resize))
        self._corner = ((new[0] - self._side) // 2, (new[1] - self._side) // 2)
        self._new = None if new == (width, height) else new
        self._box: tuple[float, float, float, float] | None = None
        if max(new) <= _ELONGATED * self._resize:
            return Box(0, 0, width, height)
        columns, rows = (
            _part(length, to, offset, self._side)
            for length, to, offset in zip((width, height), new, self._corner, strict=True)
        )
        self._box = (columns.start, rows.start, columns.end, rows.end)
        return Box(columns.first, rows.first, columns.last, rows.last)

    def square(self, part: Pixels) -> Pixels:
        """The square, of what was wanted last."""
        if self._box is not None:
            return resized(part, (self._side, self._side), self._box)
        if self._new is not None:
            part = resized(part, self._new)
        left, top = self._corner
        return part[top : top + self._side, left : left + self._side]


class _Part(NamedTuple):
    """Along one axis: the pixels that are read, and where among them the result begins and ends."""

    first: int
    last: int
    start: float
    end: float


def _part(length: int, resized: int, offset: int, side: int) -> _Part:
    """What of ``length`` pixels, resized to ``resized``, becomes the ``side`` pixels from ``offset`` on."""
    step = length / resized
    start, end = offset * step, (offset + side) * step
    support = 2 * max(step, 1) + 2  # bicubic reaches two pixels to either side, of the larger of the two grids
    first, last = max(math.floor(start - support), 0), min(math.ceil(end + support), length)
    return _Part(first, last, start - first, min(end - first, last - first))


def resized(pixels: Pixels, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Pixels:
    """``[H, W, C]`` at another size (width, height), or a part of it; bicubic, smoothed when reduced."""
    channels = pixels.shape[2]
    if channels == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box))
    planes = (Image.fromarray(pixels[:, :, channel]) for channel in range(channels))
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC, box)) for plane in planes], axis=-1)


@memory_is_named
def preprocess_bytes(data: bytes | memoryview, config: PreprocessingConfig, max_pixels: int | None = None) -> Floats:
    """Decode an encoded image and preprocess it, ``[C, S, S]`` float32.

    Args:
        data: The file's bytes.
        config: The model's settings.
        max_pixels: Of colour; what decodes to more, counted in bytes, is refused before memory is taken for it. None:
            the reader's own limit.

    Raises:
        DecodeError: When the bytes are no usable image.
    """
    if max_pixels is not None:
        require_affordable(data, config.channels, max_pixels)
    centre = Centre(config.resize, config.image_size)
    # A large JPEG is decoded at one of its built-in smaller scales: several times faster, and smoothed.
    pixels = decode_image(
        data,
        channels=config.channels,
        min_side=config.resize,
        value_range=config.value_range,
        max_pixels=MAX_PIXELS if max_pixels is None else min(max_pixels, MAX_PIXELS),
        cut=centre,
    )
    return normalise(centre.square(pixels), config)
