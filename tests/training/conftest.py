"""A tiny real dataset (handwritten digits of 8 × 8 pixels) and the jobs that train on it within seconds."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinomill.handles import DatasetHandle
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.shards import ShardWriter
from dinomill.models.config import VisionTransformerConfig
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_file
from dinomill.training.job import TrainingJob

TINY = VisionTransformerConfig(
    image_size=8, patch_size=4, in_channels=1, embed_dim=32, depth=2, num_heads=2, layerscale=1.0
)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_dataset(folder: Path, images: np.ndarray[Any, Any]) -> DatasetHandle:
    rows: list[dict[str, Any]] = []
    with ShardWriter(folder / "shards") as writer:
        for index, pixels in enumerate(images):
            data = png(pixels)
            place = writer.add(data, "png")
            row = dict.fromkeys(MANIFEST_SCHEMA.names)
            row |= {"path": f"{index}.png", "source": "digits", "fate": "kept", "bytes": len(data)}
            row |= {"height": pixels.shape[0], "width": pixels.shape[1]}
            row |= {"shard": place.shard, "offset": place.offset, "length": place.length}
            rows.append(row)
        shards = writer.close()
    manifest = folder / "manifest.parquet"
    write_parquet(manifest, pa.Table.from_pylist(rows, MANIFEST_SCHEMA))
    handle = DatasetHandle(
        folder=folder,
        config_hash="0" * 64,
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
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images * 15.9).astype(np.uint8), bunch.target


@pytest.fixture(scope="session")
def dataset(
    tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> DatasetHandle:
    return write_dataset(tmp_path_factory.mktemp("digits") / "curated", digits[0][:400])


@pytest.fixture(scope="session")
def labelled(
    tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "labelled"
    for index in range(1000, 1300):
        path = folder / "train" / str(digits[1][index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(digits[0][index]))
    return folder


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


@pytest.fixture
def make_job(dataset: DatasetHandle, tmp_path: Path) -> Callable[..., TrainingJob]:
    """Jobs of the tiny model; keywords change nested keys of it."""

    def make(**changes: Any) -> TrainingJob:
        values: dict[str, Any] = {
            "stage": "pretraining",
            "recipe": {
                "steps": 12,
                "batch_size": 16,
                "crops": {
                    "global_size": 8,
                    "global_scale": [0.5, 1.0],
                    "local_size": 4,
                    "local_scale": [0.2, 0.5],
                    "local_crops": 2,
                    "blur": [0, 0, 0],
                },
                "masking": {"min_patches": 1},
            },
            "models": {"student": TINY.model_dump()},
            "step": {
                "head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 64},
                "drop_path": 0.2,
                "precision": "fp32",
            },
            "runtime": {
                "device": "cpu",
                "log_every": 3,
                "checkpoint_every": 4,
                "loader": {"workers": 1},
                "monitor": {"every": 0},
            },
            "dataset": dataset.folder,
            "dataset_sha256": dataset.manifest_sha256,
            "work_root": tmp_path / "work",
        }
        return TrainingJob.parse(merge(values, changes), where="a test")

    return make


@pytest.fixture
def start_worker() -> Callable[..., subprocess.Popen[str]]:
    """The real worker in a process of its own, or several of them under torchrun."""

    def start(job: TrainingJob, processes: int = 0, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m"]
        if processes:
            command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        return subprocess.Popen(
            [*command, "dinomill.training.worker", str(job.save())],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
