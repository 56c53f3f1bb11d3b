"""A small messy pool of real pictures, made once, and a configuration to curate it with."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from dinomill.curation.config import CurationConfig

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def encoded(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


class Planted(NamedTuple):
    pool: Path
    seeds: Path
    labelled: Path
    kind: dict[str, str]  # path in the pool -> what it is
    original: dict[str, str]  # path of a copy -> what it copies


def _patches(count: int, seed: int, names: tuple[str, ...], side: int = 48) -> list[Pixels]:
    """Distinct patches of photographs: a place is used once."""
    from skimage import data

    generator = np.random.default_rng(seed)
    found, places = [], set()
    while len(found) < count:
        name = names[len(found) % len(names)]
        photograph = getattr(data, name)()
        photograph = photograph if photograph.ndim == 3 else np.repeat(photograph[..., None], 3, axis=2)
        y, x = (int(generator.integers((extent - side) // 24)) * 24 for extent in photograph.shape[:2])
        if (name, y, x) not in places and photograph[y : y + side, x : x + side].std() > 12:
            places.add((name, y, x))
            found.append(np.ascontiguousarray(photograph[y : y + side, x : x + side, :3]))
    return found


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Digits are what is wanted; patches of photographs are not."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("planted")
    digits = [
        np.asarray(Image.fromarray((d * 15.9).astype(np.uint8)).resize((32, 32), 3)) for d in load_digits().images
    ]
    kind: dict[str, str] = {}
    original: dict[str, str] = {}

    def put(path: str, data: bytes, what: str, of: str | None = None) -> None:
        file = root / "pool" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        kind[path] = what
        if of:
            original[path] = of

    for number in range(240):
        put(f"a/{number % 7}/{number:04d}.png", encoded(digits[number]), "relevant")
    wanted = list(kind)
    for number in range(20):
        put(f"copies/{number}.png", encoded(digits[number * 3]), "exact", wanted[number * 3])
        changed = [
            lambda d: encoded(d, "JPEG", quality=60),
            lambda d: encoded(np.asarray(Image.fromarray(d).resize((29, 29), Image.Resampling.BICUBIC))),
            lambda d: encoded(np.clip(d * 1.08, 0, 255).astype(np.uint8)),
        ][number % 3]
        put(f"near/{number}.img", changed(digits[100 + number]), "near", wanted[100 + number])
    for number, patch in enumerate(_patches(60, 0, ("astronaut", "coffee", "rocket", "chelsea"))):
        put(f"other/{number}.jpg", encoded(patch, "JPEG", quality=92), "irrelevant")
    put("bad/empty.png", b"", "broken")
    put("bad/text.jpg", b"no picture at all", "broken")
    put("bad/cut.png", encoded(digits[0])[:-80], "broken")
    put("bad/pixel.png", encoded(np.zeros((1, 1), np.uint8)), "broken")
    for number in range(300, 360):
        (root / "seeds").mkdir(exist_ok=True)
        (root / "seeds" / f"{number}.png").write_bytes(encoded(digits[number]))
    for number in range(400, 420):
        file = root / "labelled" / ("train" if number % 2 else "test") / "digit" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(digits[number]))
    for number in range(400, 404):
        put(f"leak/{number}.jpg", encoded(digits[number], "JPEG", quality=75), "leak")
    return Planted(root / "pool", root / "seeds", root / "labelled", kind, original)


@pytest.fixture(scope="session")
def configure() -> Callable[..., CurationConfig]:
    """A configuration that writes below a folder; keyword arguments replace whole parts."""

    def make(root: Path, **parts: Any) -> CurationConfig:
        names = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
        settings: dict[str, Any] = {
            "folders": {name: root / name for name in names},
            "execution": {"executor": "inline"},
            "scan": {"files_per_task": 64},
            "gate": {"docs": False},
            "embedding": {"embedder": {"image_size": 32, "precision": "float32"}, "images_per_task": 128},
            "write": {"images_per_shard": 100},
        }
        return CurationConfig.model_validate(settings | parts)

    return make
