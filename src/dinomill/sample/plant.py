"""What is planted in the sample's pool: files of the kinds that real pools hold, made from real pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Random = np.random.Generator

# Photographs that come inside scikit-image and scikit-learn and are free to use; each gives patches of its own texture.
_SKIMAGE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "rocket.jpg",
)
_SKLEARN = ("china.jpg", "flower.jpg")


def encode(pixels: Pixels, kind: str, quality: int = 95) -> bytes:
    """PNG or JPEG bytes of ``[H, W]`` or ``[H, W, 3]``."""
    buffer = io.BytesIO()
    options = {"quality": quality} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def near_duplicate(pixels: Pixels, random: Random) -> tuple[bytes, str, str]:
    """The same picture as another tool would leave it.

    Returns:
        The file's bytes, its extension, and what was done.
    """
    quality = int(random.integers(50, 91))
    change = random.integers(3)
    if change == 0:
        return encode(pixels, "JPEG", quality), "jpg", f"JPEG, quality {quality}"
    if change == 1:
        side = int(random.choice([25, 26, 30, 32]))
        resized = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
        return encode(resized, "PNG"), "png", f"{side}×{side} pixels"
    factor = 1 + float(random.uniform(0.04, 0.08)) * (1 if random.random() < 0.5 else -1)
    brighter = np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)
    return encode(brighter, "JPEG", quality), "jpg", f"brightness ×{factor:.3f}, JPEG, quality {quality}"


def digits(count: int, random: Random) -> Iterator[bytes]:
    """Handwritten digits, enlarged to 28×28, as PNG."""
    from sklearn.datasets import load_digits

    images = (load_digits().images * (255 / 16)).astype(np.uint8)
    for index in random.permutation(len(images))[:count]:
        yield encode(np.asarray(Image.fromarray(images[index]).resize((28, 28), Image.Resampling.BICUBIC)), "PNG")


def patches(count: int, random: Random) -> Iterator[tuple[bytes, str]]:
    """Square patches of photographs, 28 to 64 pixels, grey and in colour, with their extension."""
    photographs = _photographs()
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        extent = int(random.integers(min(photograph.size) // 6, min(photograph.size) // 2))
        left = int(random.integers(photograph.width - extent))
        top = int(random.integers(photograph.height - extent))
        side = int(random.integers(28, 65))
        patch = photograph.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + extent, top + extent))
        if random.random() < 0.5:
            patch = patch.convert("L")
        kind, extension = ("JPEG", "jpg") if random.random() < 0.6 else ("PNG", "png")
        yield encode(np.asarray(patch), kind, int(random.integers(80, 96))), extension


def broken(pixels: Pixels, number: int, random: Random) -> tuple[bytes, str, str]:
    """A file that cannot be used, of the kinds in turn.

    Returns:
        The file's bytes, its extension, and its kind.
    """
    kinds: tuple[Callable[[], tuple[bytes, str, str]], ...] = (
        lambda: (_cut(encode(pixels, "PNG"), random), "png", "truncated_png"),
        lambda: (_cut(encode(pixels, "JPEG"), random), "jpg", "truncated_jpeg"),
        lambda: (f"order {number}: see the scans in the shared folder\n".encode(), "jpg", "text"),
        lambda: (b"", "png", "empty"),
        lambda: (encode(pixels[14:15, 14:15], "PNG"), "png", "one_pixel"),
        lambda: (b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n", "jpg", "error_page"),
        lambda: (random.bytes(700), "jpg", "noise"),
        lambda: (_flipped(encode(pixels, "PNG"), random), "png", "corrupt_png"),
    )
    return kinds[number % len(kinds)]()


def _cut(data: bytes, random: Random) -> bytes:
    """A download that stopped: the header is whole, the pixels are not."""
    return data[: int(len(data) * random.uniform(0.7, 0.95))]


def _flipped(data: bytes, random: Random) -> bytes:
    """A bad disk: some bytes of the compressed pixels are others."""
    damaged = bytearray(data)
    start = data.index(b"IDAT") + 12
    for position in random.integers(start, len(data) - 20, size=6):
        damaged[position] ^= 0x5A
    return bytes(damaged)


def _photographs() -> list[Image.Image]:
    import skimage
    import sklearn.datasets

    folders = (Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images")
    names = ((folders[0], _SKIMAGE), (folders[1], _SKLEARN))
    return [Image.open(folder / name).convert("RGB") for folder, group in names for name in group]
