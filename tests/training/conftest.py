"""Jobs that train a tiny model on real images, handwritten digits of 8 × 8 pixels, within seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dinomill.execution.node_script import FRESH_STORE
from dinomill.handles import DatasetHandle
from dinomill.models.config import VisionTransformerConfig
from dinomill.training.job import TrainingJob

TINY = VisionTransformerConfig(
    image_size=8, patch_size=4, in_channels=1, embed_dim=32, depth=2, num_heads=2, layerscale=1.0
)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=False)
    if done.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def make_job(digits_dataset: DatasetHandle, tmp_path: Path) -> Callable[..., TrainingJob]:
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
            "dataset": digits_dataset.folder,
            "dataset_sha256": digits_dataset.manifest_sha256,
            "work_root": tmp_path / "work",
        }
        return TrainingJob.parse(merge(values, changes), where="a test")

    return make


@pytest.fixture
def start_worker() -> Callable[..., subprocess.Popen[str]]:
    """The real worker in a process of its own, or several of them under torchrun."""

    def start(job: TrainingJob, processes: int = 0, restarts: int = 0, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m"]
        if processes:
            command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command += [f"--max-restarts={restarts}", "-m"]
        environment = {**os.environ, **FRESH_STORE, "OMP_NUM_THREADS": "1", **variables}
        for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        return subprocess.Popen(
            [*command, "dinomill.training.worker", str(job.save())],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
