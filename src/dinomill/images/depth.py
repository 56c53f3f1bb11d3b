"""Depth maps: how far away each pixel is; 0, NaN and infinity stand for what was not measured."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.images.decode import decode_image, probe_image, stored_values
from dinomill.images.decode_error import DecodeError


def read_depth(path: Path, scale: float | None = None) -> Floats:
    """The depth of every pixel, ``[H, W]`` float32; NaN where it is missing.

    Args:
        path: A PNG of 16 bits (or 8), a TIFF of floats or whole numbers, or ``.npy``.
        scale: Depth of one unit of the file, such as 0.001 for a PNG in millimetres; None: floats are depths as they
            stand, and whole numbers are refused.

    Raises:
        InputError: When it is no such file, holds no depth at all, or whole numbers without a scale; it names the file.
    """
    try:
        stored = _stored(path.read_bytes())
    except DecodeError as error:
        raise _unlike(path, f"{error.reason}: {error.detail}", "replace that file") from None
    if stored.ndim == 3 and stored.shape[2] == 1:
        stored = stored[..., 0]
    if stored.ndim != 2:
        raise _unlike(path, f"an array of shape {stored.shape}", "write one number a pixel")
    if stored.dtype.kind != "f" and scale is None:
        raise InputError(
            f"{path} holds whole numbers, and nothing says how far away one of them is.",
            found=f"{stored.dtype} from {stored.min()} to {stored.max()}",
            action="say it in the set's `scale` (`dinomill evaluate --set scale=0.001`, or set.json in its folder): "
            "0.001 for millimetres and a depth in metres",
        )
    depth = stored.astype(np.float32)
    missing = ~np.isfinite(depth) | (depth <= 0)
    if missing.all():
        raise InputError(
            f"{path} holds no depth.",
            found="only 0, negative numbers, NaN or infinity",
            expected="at least one pixel with a finite depth above 0",
            action="remove the image and its depth, or restore the file",
        )
    depth[missing] = np.nan
    return depth if scale is None else depth * np.float32(scale)


def _stored(data: bytes) -> npt.NDArray[np.generic]:
    probe_image(data)
    stored = stored_values(data)
    if stored is not None:
        return stored
    with Image.open(io.BytesIO(data)) as image:
        mode = image.mode
        if mode in ("I", "F") or mode.startswith("I;16"):
            image.load()
            return np.asarray(image)
    return decode_image(data, channels=1 if mode == "L" else 3)


def _unlike(path: Path, found: str, action: str) -> InputError:
    return InputError(
        f"{path} is not a depth map.",
        found=found,
        expected="one number a pixel: PNG of 16 bits, TIFF of floats, or .npy",
        action=action,
    )
