from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from skimage import data

from dinomill.handles import DatasetHandle
from dinomill.images.manifest import MANIFEST_SCHEMA, Fate
from dinomill.images.shards import ShardWriter
from dinomill.storage.atomic import write_parquet


def encode(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind, **options)
    return buffer.getvalue()


def write_dataset(folder: Path, images: Sequence[np.ndarray[Any, Any]], kind: str = "PNG") -> DatasetHandle:
    """A curated dataset of these images, with one image that was left out between them."""
    channels = images[0].shape[2] if images[0].ndim == 3 else 1
    rows: list[dict[str, Any]] = [{"path": "left_out.png", "source": "x", "fate": Fate.IRRELEVANT.value}]
    with ShardWriter(folder / "shards", max_images=50) as writer:
        for number, pixels in enumerate(images):
            place = writer.add(encode(pixels, kind), kind.lower())
            rows.append(
                {"path": f"{number}.{kind.lower()}", "source": "x", "fate": Fate.KEPT.value, **place._asdict()}
                | {"height": pixels.shape[0], "width": pixels.shape[1]}
            )
        shards = writer.close()
    manifest = folder / "manifest.parquet"
    write_parquet(manifest, pa.Table.from_pylist(rows, MANIFEST_SCHEMA))
    handle = DatasetHandle(
        folder=folder,
        made_of="",
        manifest=manifest,
        manifest_sha256="",
        shards=tuple(shards),
        images=len(images),
        pool_images=len(rows),
        fates={},
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        embedder="",
        sources=(),
    )
    handle.save()
    return handle


@pytest.fixture(scope="session")
def tiny_images() -> list[np.ndarray[Any, Any]]:
    """150 grey patches of 28×28 pixels."""
    camera = data.camera()
    return [camera[i : i + 28, 2 * i : 2 * i + 28] for i in range(150)]


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray[Any, Any]]:
    """Photographs of several shapes, one of them much larger than a crop."""
    astronaut, coffee, cat = data.astronaut(), data.coffee(), data.chelsea()
    large = np.asarray(Image.fromarray(coffee).resize((1200, 800), Image.Resampling.BICUBIC))
    return [astronaut[:256, :256], coffee, cat, large, astronaut[100:400, 50:250]]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DatasetHandle]:
    def make(images: Sequence[np.ndarray[Any, Any]], kind: str = "PNG") -> DatasetHandle:
        return write_dataset(tmp_path_factory.mktemp("dataset"), images, kind)

    return make
