"""What a client may give as an image, and its bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from dinomill.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_OF_PNG = ("L", "RGB", "RGBA", "I", "I;16", "1", "P", "LA")
_TRANSPARENT = ("PA", "La", "RGBa")

Image: TypeAlias = "Path | str | bytes | bytearray | Picture"


def several(images: Image | Iterable[Image]) -> Iterable[Image]:
    """The images of one, or of several."""
    if isinstance(images, str | Path | bytes | bytearray) or hasattr(images, "save"):
        return [cast("Image", images)]
    return images


def encoded(image: Image) -> bytes:
    """An image file's bytes.

    Raises:
        InputError: When a file cannot be read, or it is something else.
    """
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, str | Path):
        try:
            data = Path(image).read_bytes()
        except OSError as error:
            raise InputError(f"{image} cannot be read.", found=error.strerror) from None
        if not data:
            raise InputError(f"{image} is empty.", expected="an image file")
        return data
    if hasattr(image, "save") and hasattr(image, "mode"):
        return _of_picture(image)
    raise InputError(
        "That is not an image.",
        found=type(image).__name__,
        expected="a path, the bytes of an image file, or a picture of Pillow",
    )


def _of_picture(image: Picture) -> bytes:
    """A picture's file without losses, from which the server makes what it makes of the file that was opened."""
    from PIL import ImageOps

    buffer = io.BytesIO()
    upright = ImageOps.exif_transpose(image)  # a PNG of it would not say how it was held
    # PNG has neither floats nor 32 bits: made bytes of, 0 to 1 would be black. TIFF keeps the numbers.
    if upright.mode in ("F", "I;16B") or (upright.mode == "I" and image.format != "PNG"):
        upright.save(buffer, "TIFF")
    elif upright.mode in _OF_PNG:
        upright.save(buffer, "PNG", compress_level=1)
    else:
        upright.convert("RGBA" if upright.mode in _TRANSPARENT else "RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def named(image: Image) -> str:
    """How an image is called in messages; empty where it has no name."""
    if isinstance(image, str | Path):
        return str(image)
    return str(getattr(image, "filename", "") or "")
