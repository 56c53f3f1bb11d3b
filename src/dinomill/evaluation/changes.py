"""What may happen to a picture on its way: corruptions, moves, and what people do before they pass it on.

Every change is a function of the pixels and of the image's row alone, so that two networks see the same. Corruptions
follow ImageNet-C (Hendrycks & Dietterich 2019) in kind and in strength; what it gives in pixels of a 224-pixel image
is scaled with the image's shorter side.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dinomill.arrays import Floats, Pixels
from dinomill.storage.hashing import hash_json

# Of severities 1 to 5, as ImageNet-C has them.
_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation, of 1
_BLUR = (1, 2, 3, 4, 6)  # standard deviation, in pixels of a 224-pixel image
_JPEG = (25, 18, 15, 10, 7)  # quality
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # what is left of it
_REFERENCE = 224
# Raised when the code gives other pixels for the same change.
_VERSION = 1


@dataclass(frozen=True)
class Change:
    """A change of images.

    Args:
        name: Such as ``noise_3`` or ``shift_2``.
        amount: What it is done by.
        work: From pixels ``[H, W, C]``, the amount and a source of chance to pixels.
    """

    name: str
    amount: float
    work: Callable[[Pixels, float, np.random.Generator], Pixels]

    @property
    def identity(self) -> str:
        """Of all that makes its pixels what they are."""
        return hash_json([_VERSION, self.name, self.amount, self.work.__name__])

    def __call__(self, pixels: Pixels, row: int) -> Pixels:
        """The image of this row, changed.

        Args:
            pixels: ``[H, W, C]`` uint8.
            row: Chance differs from row to row, and not from run to run.
        """
        random = np.random.default_rng([zlib.crc32(self.name.encode()), row])
        return np.ascontiguousarray(self.work(pixels, self.amount, random))


def noise(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Gaussian noise of a standard deviation, of 1."""
    return _rounded(pixels.astype(np.float32) + random.normal(0, amount * 255, pixels.shape).astype(np.float32))


def blur(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """A Gaussian of a standard deviation in pixels of a 224-pixel image."""
    import cv2

    del random
    sigma = amount * min(pixels.shape[:2]) / _REFERENCE
    blurred: Pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), dtype=np.uint8).reshape(pixels.shape)
    return blurred


def jpeg(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Compressed at a quality; each channel by itself where they are not one or three."""
    del random
    if pixels.shape[2] not in (1, 3):
        planes = [jpeg(pixels[..., [channel]], amount, np.random.default_rng(0)) for channel in range(pixels.shape[2])]
        return np.concatenate(planes, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=round(amount))
    with Image.open(buffer) as image:
        return np.asarray(image).reshape(pixels.shape)


def contrast(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Drawn together towards each channel's mean."""
    del random
    values = pixels.astype(np.float32)
    mean = values.mean(axis=(0, 1), keepdims=True)
    return _rounded((values - mean) * amount + mean)


def shift(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Moved by up to so many pixels each way, never by none; the border fills what is left free."""
    reach = round(amount)
    y, x = 0, 0
    while reach and y == x == 0:
        y, x = (int(value) for value in random.integers(-reach, reach + 1, size=2))
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    return padded[reach + y : reach + y + height, reach + x : reach + x + width]


def scale(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Larger or smaller by a factor about the middle, on a canvas of the same size; mirrored borders fill the rest."""
    del random
    return _warped(pixels, 0.0, amount)


def turn(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Turned by so many degrees, this way or that, about the middle; mirrored borders fill the corners."""
    return _warped(pixels, amount if random.random() < 0.5 else -amount, 1.0)


def crop(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """A part of so much of the area, anywhere, of the same shape."""
    height, width = pixels.shape[:2]
    tall, wide = (max(round(length * amount**0.5), 1) for length in (height, width))
    top, left = int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1))
    return pixels[top : top + tall, left : left + wide]


def flip(pixels: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Mirrored left to right."""
    del amount, random
    return pixels[:, ::-1]


def corruptions(severities: tuple[int, ...]) -> dict[str, tuple[Change, ...]]:
    """Each kind at severities from 1 to 5."""
    kinds = {"noise": (noise, _NOISE), "blur": (blur, _BLUR), "jpeg": (jpeg, _JPEG), "contrast": (contrast, _CONTRAST)}
    return {
        kind: tuple(Change(f"{kind}_{severity}", amounts[severity - 1], work) for severity in severities)
        for kind, (work, amounts) in kinds.items()
    }


def moves(
    shifts: tuple[int, ...], scales: tuple[float, ...], turns: tuple[float, ...]
) -> dict[str, tuple[Change, ...]]:
    """Each kind at its amounts."""
    return {
        "shift": tuple(Change(f"shift_{amount}", amount, shift) for amount in shifts),
        "scale": tuple(Change(f"scale_{amount:g}", amount, scale) for amount in scales),
        "turn": tuple(Change(f"turn_{amount:g}", amount, turn) for amount in turns),
    }


def copies(crop_area: float, blur_sigma: float, jpeg_quality: int) -> dict[str, tuple[Change, ...]]:
    """What a copy went through."""
    return {
        "crop": (Change("copy_crop", crop_area, crop),),
        "blur": (Change("copy_blur", blur_sigma, blur),),
        "jpeg": (Change("copy_jpeg", jpeg_quality, jpeg),),
        "flip": (Change("copy_flip", 1, flip),),
    }


def _warped(pixels: Pixels, degrees: float, factor: float) -> Pixels:
    import cv2

    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, factor)
    warped = cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    found: Pixels = np.asarray(warped, dtype=np.uint8).reshape(pixels.shape)
    return found


def _rounded(values: Floats) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded
