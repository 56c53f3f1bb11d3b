"""Fixtures that every area's tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROJECT = Path(__file__).parents[1]
REFERENCES = PROJECT.parent / "shared" / "fixtures"


@pytest.fixture(autouse=True)
def _same_code_for_processes() -> Iterator[None]:
    """Kedro puts the `src` of a project into PYTHONPATH when it opens one: later processes would import from there."""
    before = os.environ.get("PYTHONPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def numeric_reference() -> Callable[[str], Mapping[str, np.ndarray[Any, Any]]]:
    """Arrays computed with the official code; a test that asks for one that is not there is skipped."""

    def read(name: str) -> Mapping[str, np.ndarray[Any, Any]]:
        path = REFERENCES / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"the numeric reference {name}.npz is not beside the project")
        with np.load(path) as arrays:
            return dict(arrays)

    return read


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of its own to run commands in: this one's code and configuration, an empty ``data``."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)  # Kedro wants the folder itself inside of the project
    for name in ("src/dinomill", "pipelines", "pyproject.toml"):
        (root / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "conf", root / "conf", ignore=shutil.ignore_patterns("local"))
    (root / "conf" / "local").mkdir()
    (root / "data").mkdir()
    return root


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Encoded photographs of different sizes and shapes: JPEG, PNG and grey."""
    import io

    from PIL import Image
    from skimage import data

    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.camera(), data.cat()]
    encoded = []
    for number, pixels in enumerate(pictures):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG" if number == 2 else "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an exported backbone: a small vision transformer with random weights."""
    import torch

    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone, variant

    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    # Without a gain of 1 the branches would hardly count and all embeddings would be alike.
    model = build(variant("nano", patch_size=8, image_size=64, layerscale=1.0))
    save_backbone(folder, model, PreprocessingConfig.square(64, (0.5,) * 3, (0.25,) * 3).section())
    return folder


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Handwritten digits: 1,797 grey images [8, 8] uint8, and their classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images * 15.9).astype(np.uint8), bunch.target


@pytest.fixture(scope="session")
def digits_dataset(
    tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> Any:
    """A curated dataset of 400 digits: trainings on it take seconds. A ``DatasetHandle``."""
    import pyarrow as pa

    from dinomill.handles import DatasetHandle
    from dinomill.images.manifest import MANIFEST_SCHEMA
    from dinomill.images.shards import ShardWriter
    from dinomill.storage.atomic import write_parquet
    from dinomill.storage.hashing import hash_file

    images = digits[0][:400]
    folder = tmp_path_factory.mktemp("digits") / "curated"
    rows: list[dict[str, Any]] = []
    with ShardWriter(folder / "shards") as writer:
        for index, pixels in enumerate(images):
            data = _png(pixels)
            place = writer.add(data, "png")
            row: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA.names)
            row |= {"path": f"{index}.png", "source": "digits", "fate": "kept", "bytes": len(data)}
            row |= {"height": pixels.shape[0], "width": pixels.shape[1], **place._asdict()}
            rows.append(row)
        shards = writer.close()
    manifest = folder / "manifest.parquet"
    write_parquet(manifest, pa.Table.from_pylist(rows, MANIFEST_SCHEMA))
    handle = DatasetHandle(
        folder=folder,
        made_of="0" * 64,
        manifest=manifest,
        manifest_sha256=hash_file(manifest),
        shards=tuple(shards),
        images=len(images),
        pool_images=len(images),
        fates={"kept": len(images)},
        channels=1,
        mean=(float(images.mean() / 255),),
        std=(float(images.std() / 255),),
        embedder="none",
        sources=("digits",),
    )
    handle.save()
    return handle


@pytest.fixture(scope="session")
def digits_labelled(
    tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> Path:
    """300 other digits as a labelled split: ``train/<class>/<image>``."""
    folder = tmp_path_factory.mktemp("digits") / "labelled"
    for index in range(1000, 1300):
        path = folder / "train" / str(digits[1][index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(digits[0][index]))
    return folder


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
