"""What is planted in the sample's pool: files of the kinds that real pools hold, made from real pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dinomill.arrays import Pixels
from dinomill.sample.fashion_mnist import read_split
from dinomill.sample.photographs import NAMES as PHOTOGRAPHS
from dinomill.sample.photographs import photograph

Random = np.random.Generator

# Flat colours of drawings: paper, ink, and what a plotter or a child would take.
_PAPER = ((255, 255, 255), (250, 248, 240), (240, 244, 248))
_INK = ((20, 20, 20), (200, 40, 30), (30, 90, 170), (40, 140, 60), (240, 190, 40), (120, 120, 120))


def encode(pixels: Pixels, kind: str, quality: int = 95) -> bytes:
    """PNG, JPEG or TIFF bytes of ``[H, W]`` or ``[H, W, 3]``."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if kind == "JPEG" else {}
    if kind == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
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
        side = round(pixels.shape[0] * float(random.choice([0.9, 0.93, 1.07, 1.14])))
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


def garments(source: Path, count: int, random: Random) -> Iterator[bytes]:
    """Grey photographs of clothes, 28×28, as PNG."""
    images, _ = read_split(source, "train")
    for index in random.permutation(len(images))[:count]:
        yield encode(images[index], "PNG")


def drawings(count: int, random: Random) -> Iterator[bytes]:
    """Lines and shapes in a few flat colours on paper, 28 to 64 pixels, as PNG."""
    for _ in range(count):
        side = int(random.integers(28, 65))
        # Drawn four times as large: thin lines are then as smooth as a scanner's.
        image = Image.new("RGB", (4 * side, 4 * side), _PAPER[random.integers(len(_PAPER))])
        for _ in range(random.integers(2, 6)):
            _draw_shape(ImageDraw.Draw(image), 4 * side, random)
        yield encode(np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)), "PNG")


def _draw_shape(draw: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    colour = _INK[random.integers(len(_INK))]
    points = [(int(x), int(y)) for x, y in random.integers(0, side, size=(random.integers(3, 6), 2))]
    left, right = sorted(x for x, _ in points[:2])
    top, bottom = sorted(y for _, y in points[:2])
    width = int(random.integers(4, 13))
    kind = random.integers(4)
    if kind == 0:
        draw.line(points, fill=colour, width=width)
    elif kind == 1:
        draw.polygon(points, fill=colour)
    elif kind == 2:
        draw.ellipse((left, top, right, bottom), outline=colour, width=width)
    else:
        draw.rectangle((left, top, right, bottom), fill=colour)


def patches(count: int, random: Random) -> Iterator[tuple[bytes, str]]:
    """Square patches of photographs, 28 to 64 pixels, grey and in colour, with their extension."""
    whole = [Image.fromarray(photograph(name)).convert("RGB") for name in PHOTOGRAPHS]
    for number in range(count):
        picture = whole[number % len(whole)]
        extent = int(random.integers(min(picture.size) // 6, min(picture.size) // 2))
        left = int(random.integers(picture.width - extent))
        top = int(random.integers(picture.height - extent))
        side = int(random.integers(28, 65))
        patch = picture.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + extent, top + extent))
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
