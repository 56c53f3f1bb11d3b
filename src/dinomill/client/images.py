"""What a client may give as an image, and its bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from dinomill.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

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
            return Path(image).read_bytes()
        except OSError as error:
            raise InputError(f"{image} cannot be read.", found=error.strerror) from None
    if hasattr(image, "save") and hasattr(image, "mode"):
        buffer = io.BytesIO()
        picture = image if image.mode in ("L", "RGB", "RGBA", "I;16", "1", "P", "LA") else image.convert("RGB")
        picture.save(buffer, "PNG", compress_level=1)  # what the network sees is not changed by JPEG's losses
        return buffer.getvalue()
    raise InputError(
        "That is not an image.",
        found=type(image).__name__,
        expected="a path, the bytes of an image file, or a picture of Pillow",
    )


def named(image: Image) -> str:
    """How an image is called in messages; empty where it has no name."""
    if isinstance(image, str | Path):
        return str(image)
    return str(getattr(image, "filename", "") or "")
