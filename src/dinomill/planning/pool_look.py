"""A look at one image: what it is, whether it shows colour, and what it is compared with others by."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinomill.curation.scan.preflight import EMPTY_TILE, PreflightConfig, Rejected
from dinomill.curation.scan.signatures import signature
from dinomill.images.decode import DecodeError, ImageInfo, decode_image, probe_image, stored_values
from dinomill.images.listing import TILE, Item, read_item
from dinomill.images.looks import thumbnail
from dinomill.images.pixels import luminance, to_channels

_COLOUR = 12  # grey levels between a pixel's channels: JPEG's rounding and a scanner's noise stay below
_COLOURED_PIXELS = 0.002  # share of a picture's pixels that must have colour


@dataclass(frozen=True)
class Look:
    """One image."""

    info: ImageInfo
    coloured: bool
    contrast: float
    small: npt.NDArray[np.float32]  # [32, 32]
    mark: npt.NDArray[np.int8]  # [256]
    digest: bytes
    seconds: float
    values: tuple[float, float] | None  # least and largest stored value of a file of more than 8 bits


def look(source: str, item: Item) -> Look | str:
    """One image, or why it is none."""
    config = PreflightConfig()
    if item.fault:
        return item.fault
    start = time.thread_time()
    try:
        data = read_item(source, item)
        info = probe_image(data, max_pixels=config.max_pixels)
        _require_shape(info, config)
        stored = stored_values(data, max_pixels=config.max_pixels) if info.is_deep else None
        values = None if stored is None else (float(stored.min()), float(stored.max()))
        if stored is None or values is None:
            pixels = decode_image(data, min_side=config.look_side, max_pixels=config.max_pixels)
        else:  # its own range, so that it is seen; what all of them are to have is decided when all were seen
            pixels = to_channels(stored, 3, values if values[0] < values[1] else None)
    except DecodeError as error:
        return error.countable
    except Rejected as rejected:
        return rejected.reason
    except OSError:
        return "unreadable"
    grey = luminance(pixels)
    contrast = float(grey.std()) / 255
    if item.offset == TILE and contrast < config.min_tile_contrast:
        return EMPTY_TILE
    small = thumbnail(grey)
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    return Look(
        info=info,
        coloured=bool((spread > _COLOUR).mean() > _COLOURED_PIXELS),
        contrast=contrast,
        small=small,
        mark=signature(small),
        digest=hashlib.sha256(data).digest(),
        seconds=time.thread_time() - start,
        values=values,
    )


def _require_shape(info: ImageInfo, config: PreflightConfig) -> None:
    """What curation's first look leaves out for its shape."""
    if min(info.width, info.height) < config.min_side:
        raise Rejected("too_small", "")
    if max(info.width, info.height) > config.max_aspect * min(info.width, info.height):
        raise Rejected("absurd_aspect", "")
