from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dinomill.curation.copies.colour import other_colours
from dinomill.curation.scan.preflight import PreflightConfig, look_at
from dinomill.curation.scan.signatures import Colours

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
QATAR, BAHRAIN = (138, 21, 56), (206, 17, 38)


def flag(colour: tuple[int, int, int], side: int = 128) -> Pixels:
    """White at the hoist, a serrated line, a colour."""
    image = Image.new("RGB", (side, side), "white")
    teeth = [(side * (0.3 if k % 2 else 0.45), side * k / 10) for k in range(11)]
    ImageDraw.Draw(image).polygon([*teeth, (side, side), (side, 0)], fill=colour)
    return np.asarray(image)


def face(skin: tuple[int, int, int], side: int = 128) -> Pixels:
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse([side * 0.2, side * 0.1, side * 0.8, side * 0.8], fill=skin)
    draw.rectangle([side * 0.2, side * 0.8, side * 0.8, side], fill=(40, 90, 200))
    for x in (0.38, 0.58):
        draw.ellipse([side * x, side * 0.35, side * (x + 0.06), side * 0.45], fill=(30, 20, 20))
    return np.asarray(image)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(pixels: Pixels, quality: int = 50) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def gained(pixels: Pixels, *gain: float) -> Pixels:
    return np.clip(pixels * np.array(gain), 0, 255).astype(np.uint8)


@pytest.fixture
def differ(tmp_path: Path) -> Callable[[bytes, bytes], bool]:
    """Whether the scan's colours of two files are others."""

    def answer(one: bytes, other: bytes) -> bool:
        rows = [look_at(data, PreflightConfig()) for data in (one, other)]
        np.save(tmp_path / "signatures.npy", np.stack([row.signature for row in rows]))
        side = np.array([min(float(row.columns["width"] * row.columns["height"]) ** 0.5 for row in rows)])
        found = other_colours(Colours(tmp_path / "signatures.npy"), np.array([0]), np.array([1]), side, 12)
        return bool(found[0])

    return answer


def test_flags_of_equal_pattern_skin_tones_and_recoloured_icons_differ(differ: Any) -> None:
    assert differ(png(flag(QATAR)), png(flag(BAHRAIN)))
    assert differ(png(flag(QATAR)), png(flag((0, 120, 60))))
    assert differ(png(flag(QATAR, 64)), jpeg(flag(BAHRAIN, 64)))
    assert differ(png(face((255, 204, 50))), png(face((140, 90, 60))))
    assert differ(png(face((224, 187, 149))), png(face((191, 143, 104))))


@pytest.mark.parametrize("side", [48, 128, 300])
@pytest.mark.parametrize("picture", ["flag", "face", "photograph"])
def test_edits_of_one_picture_do_not(picture: str, side: int, differ: Any) -> None:
    from skimage import data

    photograph = np.asarray(Image.fromarray(data.coffee()).resize((side, side), Image.Resampling.BICUBIC))
    pixels = {"flag": flag(BAHRAIN, side), "face": face((224, 187, 149), side), "photograph": photograph}[picture]
    smaller, larger = (
        np.asarray(Image.fromarray(pixels).resize((round(side * by),) * 2, Image.Resampling.BICUBIC))
        for by in (0.9, 1.2)
    )
    edits = {
        "compressed": jpeg(pixels),
        "smaller": png(smaller),
        "larger": png(larger),
        "brighter": png(gained(pixels, 1.08)),
        "lifted": png(np.clip(pixels.astype(np.int16) + 15, 0, 255).astype(np.uint8)),
        "darker": png(gained(pixels, 0.85)),
        "warmer": png(gained(pixels, 1.0, 0.95, 0.88)),
        "colder": png(gained(pixels, 0.92, 1.0, 1.06)),
        "all of it": jpeg(gained(smaller, 1.08)),
    }
    assert not [name for name, edit in edits.items() if differ(png(pixels), edit)]


def test_colour_says_nothing_where_one_picture_shows_none(differ: Any) -> None:
    grey = np.repeat(np.asarray(Image.fromarray(flag(BAHRAIN)).convert("L"))[..., None], 3, axis=2)
    assert not differ(png(flag(BAHRAIN)), png(grey))
    assert not differ(png(grey[..., 0]), png(gained(grey, 0.7)[..., 0]))
