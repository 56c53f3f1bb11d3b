"""Pixels in memory to the channels that a network takes, by the rules by which files are decoded.

Grey becomes colour by repeating it, colour becomes grey by its luminance; nothing else is converted. It happens by
itself wherever a network meets images of the other kind, and is said once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.images.decode import probe_image
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.file_bytes import read_file
from dinomill.images.pixels import compose_on_white, to_uint8

_LUMA = (0.299, 0.587, 0.114)
_GREY = ("1", "L", "LA", "La", "I", "F")  # of Pillow's modes
_COLOUR = ("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_LOOKED_AT = 16  # files of which the headers are read
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def may_become(own: int, channels: int) -> bool:
    """Whether there is a rule that makes images of so many channels from those."""
    return own == channels or {own, channels} == {1, 3}


def conversion(own: int, channels: int, images: str | None, network: str) -> str | None:
    """What is said where images are converted for a network, as a sentence; None where they are not.

    Args:
        own: Channels of the images, 1 or 3.
        channels: Of the network.
        images: What they are called: "the dataset data/curated"; None: there are no others that could be meant.
        network: What it is called: "the teacher efficientnet-lite0".
    """
    if own == channels:
        return None
    how = "their grey is repeated into three channels" if own == 1 else "their luminance is what it sees of them"
    kinds = ("grey", "colour") if own == 1 else ("in colour", "grey")
    which = "The images" if images is None else f"The images of {images}"
    return f"{which} are {kinds[0]}, and {network} takes {kinds[1]}: {how}."


def channels_of(data: bytes | memoryview) -> int | None:
    """What a file's header says: 1 for grey, 3 for colour; None where it does not say it."""
    try:
        mode = probe_image(data).mode
    except Exception:  # readers of headers raise what they like; what is wrong is said when the file is decoded
        return None
    if mode in _GREY or mode.startswith("I;16"):
        return 1
    return 3 if mode in _COLOUR else None


def kind_of_files(paths: Sequence[Path]) -> int | None:
    """Whether files are grey (1) or in colour (3), by the headers of some; None where they differ or do not say it."""
    kinds: set[int | None] = set()
    for index in sorted({round(place) for place in np.linspace(0, len(paths) - 1, _LOOKED_AT)} if paths else ()):
        try:
            kinds.add(channels_of(read_file(paths[index])))
        except (DecodeError, OSError):
            continue
    return kinds.pop() if len(kinds) == 1 else None


def converted_figures(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Mean or standard deviation of images after their conversion; of grey from colour by the luminance's weights.

    The deviation of a luminance is less than that mean where channels differ; in photographs they hardly do.
    """
    if len(values) == channels:
        return values
    return values * channels if len(values) == 1 else (round(float(np.dot(_LUMA, values)), 6),)


def with_channels(
    pixels: npt.NDArray[Any], channels: int, value_range: tuple[float, float] | None = None
) -> npt.NDArray[np.uint8]:
    """An image in memory as a network with so many channels takes it.

    Grey becomes colour by repeating it, colour becomes grey by its luminance, and transparency is put on white.

    Args:
        pixels: ``[H, W]`` or ``[H, W, C]`` of any number type.
        channels: Of the network.
        value_range: Values that become 0 and 255, for other types than uint8; None is the type's whole range, of
            floats 0 to 1.

    Returns:
        ``[H, W, channels]`` uint8; the same array where nothing is to be done.

    Raises:
        DecodeError: When there is no such rule, as from five channels to three; it names both numbers.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype.kind not in "buif":
        raise DecodeError(
            Reason.UNSUPPORTED, f"an array of shape {pixels.shape} of {pixels.dtype}; [H, W, C] of numbers is expected"
        )
    if 0 in pixels.shape:
        raise DecodeError(Reason.EMPTY, f"an array of shape {pixels.shape}")
    own = pixels.shape[2]
    if own != channels and (own not in _MODES or channels not in (1, 3)):
        raise DecodeError(Reason.WRONG_CHANNELS, f"an image of {own} channels; the network takes {channels}")
    if pixels.dtype != np.uint8:
        pixels = to_uint8(pixels, value_range)
    if own == channels:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if own == 1 else pixels), _MODES[own])
    converted = np.asarray(compose_on_white(image).convert("RGB" if channels == 3 else "L"))
    return converted.reshape(*converted.shape[:2], channels)
