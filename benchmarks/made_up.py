"""Stand-ins of what is fetched: made-up pictures in the folders that the packages have, for ``--smoke``."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SAID = "A stand-in: made-up pictures instead of the packages, which would have to be fetched."


def real_pool(folder: Path) -> None:
    """What ``real_pool.lay_out`` leaves in a folder, in small: noisy squares, none like another."""
    draw = np.random.default_rng(0)
    parts = {"pool/photographs": 4, "seeds/animals": 4, "seeds/food": 4, "seeds/flags": 4}
    parts |= {
        f"pool/{source}/{category}": 8 for source in ("twitter", "fluent") for category in ("flags", "food-drink")
    }
    parts |= {f"pool/{source}/animals": 8 for source in ("openclipart", "stamps")}
    for number, (place, count) in enumerate(parts.items()):
        (folder / place).mkdir(parents=True)
        for image in range(count):
            name = f"{number:02d}{image:02d}.{'webp' if 'fluent' in place else 'png'}"
            _picture(draw, 3).save(folder / place / name)
    (folder / "complete").touch()


def solar_wheel(folder: Path) -> None:
    """A wheel as that of the solar cells, with forty noisy squares."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = [f"images/cell{number:04d}.png" for number in range(40)]
    with zipfile.ZipFile(folder / "stand_in.whl", "w") as archive:
        for name in names:
            file = io.BytesIO()
            _picture(draw, 1).save(file, "PNG")
            archive.writestr(f"elpv_dataset/data/{name}", file.getvalue())
        lines = (f"{name}  {number % 2}.0   {('mono', 'poly')[number % 3 % 2]}" for number, name in enumerate(names))
        archive.writestr("elpv_dataset/data/labels.csv", "\n".join(lines))


def _picture(draw: np.random.Generator, channels: int) -> Image.Image:
    return Image.fromarray(draw.integers(0, 256, (32, 32, channels), dtype=np.uint8).squeeze())
