"""Masks of classes: files whose values are class ids, a pixel each. A palette's colours are only for the eye."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.errors import InputError
from dinomill.images.decode import decode_image, probe_image, stored_values
from dinomill.images.decode_error import DecodeError

Ids = npt.NDArray[np.int32]
_JPEG = b"\xff\xd8\xff"


def read_mask(path: Path) -> Ids:
    """The class id of every pixel, ``[H, W]``.

    Args:
        path: A PNG (grey of 8 or 16 bits, or a palette, whose indices are the ids), TIFF, BMP, GIF or ``.npy``.

    Raises:
        InputError: When it is no such file, or holds colours; it names the file.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_JPEG):
            raise _unlike(path, "a JPEG, whose compression changes ids", "save it as PNG again, from where it was made")
        values = _stored(data)
    except DecodeError as error:
        raise _unlike(path, f"{error.reason}: {error.detail}", "replace that file") from None
    values = _plane(values, path)
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise _unlike(path, "fractions", "write whole numbers, 0 for the first class")
    if values.size and float(values.min()) < 0:
        raise _unlike(path, f"the id {values.min():g}", "give what is not labelled an id of its own, such as 255")
    return values.astype(np.int32)


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is decoded, from its header.

    Raises:
        InputError: When it is no image; it names the file.
    """
    try:
        info = probe_image(path.read_bytes())
    except DecodeError as error:
        raise InputError(
            f"{path} cannot be used.",
            found=f"{error.reason}: {error.detail}",
            action="replace that file, or take it and its pair out of the split",
        ) from None
    return info.height, info.width


def _stored(data: bytes) -> npt.NDArray[np.generic]:
    probe_image(data)  # bombs, and PNG's checksums
    stored = stored_values(data)
    if stored is not None:
        return stored
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("P", "L", "1"):
            return decode_image(data)
        try:
            image.load()
        except Exception:
            decode_image(data)  # says what is wrong with it
            raise
        return np.asarray(image)


def _plane(values: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.generic]:
    """One number a pixel: grey that was stored as colour is as good."""
    if values.ndim == 3 and all(np.array_equal(values[..., 0], values[..., other]) for other in range(values.shape[2])):
        values = values[..., 0]
    if values.ndim != 2:
        raise _unlike(
            path, f"colours, an array of shape {values.shape}", "translate each colour to the number of its class"
        )
    return values


def _unlike(path: Path, found: str, action: str) -> InputError:
    return InputError(
        f"{path} is not a mask of class ids.",
        found=found,
        expected="one whole number a pixel: PNG of 8 or 16 bits or with a palette, TIFF, or .npy",
        action=action,
    )
