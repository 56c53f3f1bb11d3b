"""Pixel formats to uint8 [H, W, C]: orientation, transparency, 16-bit and floating-point values, many channels."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.images.decode_error import DecodeError, Reason

Values = TypeVar("Values", bound=np.generic)


def orient(pixels: npt.NDArray[Values], orientation: int) -> npt.NDArray[Values]:
    """Turn ``[H, W, C]`` upright by its EXIF orientation, 1 to 8; other values mean upright."""
    if orientation not in range(2, 9):
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def compose_on_white(image: Image.Image) -> Image.Image:
    """Put an image with any kind of transparency on white: cut-outs are photographed on white more often than not."""
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if not transparent:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)


def on_white(stored: npt.NDArray[Any], *, associated: bool) -> npt.NDArray[Any]:
    """Put stored values ``[H, W, C + 1]`` whose last channel is transparency on white, ``[H, W, C]`` of the same type.

    Args:
        stored: Integers or floats (0 to 1).
        associated: Whether the colours are multiplied by the transparency already.
    """
    whole = np.iinfo(stored.dtype).max if stored.dtype.kind in "ui" else 1.0
    colours, alpha = stored[..., :-1].astype(np.float64), stored[..., -1:].astype(np.float64) / whole
    mixed = (colours if associated else colours * alpha) + whole * (1 - alpha)
    return np.clip(np.rint(mixed) if stored.dtype.kind in "ui" else mixed, 0, whole).astype(stored.dtype)


def to_uint8(stored: npt.NDArray[np.generic], value_range: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    """Map stored numbers to 0…255.

    Args:
        stored: Any shape; integers or floats.
        value_range: Values that become 0 and 255, others are clipped; None: the type's whole range, floats 0 to 1.

    Raises:
        DecodeError: unsupported, when floats or 32-bit integers come without a range and cannot be guessed.
    """
    if value_range is None and stored.dtype == np.uint8:
        return stored.view(np.uint8)
    if stored.dtype == np.bool_:
        return stored.astype(np.uint8) * np.uint8(255)
    values = stored.astype(np.float32)
    if not np.isfinite(values).all():
        raise DecodeError(Reason.UNSUPPORTED, "values that are not finite")
    low, high = value_range or _natural_range(stored.dtype, values)
    mapped: npt.NDArray[np.uint8] = np.clip((values - low) * (255.0 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    return mapped


def _natural_range(dtype: np.dtype[np.generic], values: npt.NDArray[np.float32]) -> tuple[float, float]:
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        return float(limits.min), float(limits.max)
    low, high = float(values.min()), float(values.max())
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    raise DecodeError(Reason.UNSUPPORTED, f"{dtype} values from {low:g} to {high:g}: state their `value_range`")


def to_channels(
    stored: npt.NDArray[np.generic], channels: int, value_range: tuple[float, float] | None
) -> npt.NDArray[np.uint8]:
    """An array ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` to uint8 ``[H, W, C]``.

    Raises:
        DecodeError: wrong_channels, when no axis has that many.
    """
    if stored.ndim == 2:
        stored = stored[..., None]
    if stored.ndim != 3:
        raise DecodeError(Reason.UNSUPPORTED, f"an array of shape {stored.shape}")
    if stored.shape[2] != channels:
        if stored.shape[0] == channels:
            stored = np.moveaxis(stored, 0, 2)
        elif stored.shape[2] == 1 and channels == 3:
            stored = np.repeat(stored, 3, axis=2)
        else:
            raise DecodeError(Reason.WRONG_CHANNELS, f"shape {stored.shape}; {channels} channels are configured")
    return np.ascontiguousarray(to_uint8(stored, value_range))


def luminance(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The luminance [H, W] of an image [H, W, C] with one or three channels."""
    import cv2

    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[..., 0])
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
