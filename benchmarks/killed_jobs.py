"""What kills.py kills: small trainings that look and save often, on made-up images, of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinomill.arrays import Pixels
from dinomill.handles import DatasetHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone
from dinomill.storage.hashing import hash_file

IMAGES, SIDE = 400, 16
KINDS = ("pretraining", "clusters", "regression", "cached")
_TEACHER = VisionTransformerConfig(
    image_size=24, patch_size=6, in_channels=1, embed_dim=48, depth=2, num_heads=2, layerscale=1.0
)

EVERY = 5  # steps between two looks, and two checkpoints between them


def job_of(
    dataset: DatasetHandle, steps: int, work_root: Path, parallel: str, kind: str = "pretraining"
) -> dict[str, Any]:
    """A small vision transformer that looks and saves often; distilled, unless it is pretrained."""
    model = {"image_size": SIDE, "patch_size": 4, "in_channels": 1, "embed_dim": 96, "depth": 3, "num_heads": 3}
    crops = {"global_size": SIDE, "local_size": 8, "local_crops": 2, "blur": [0, 0, 0]}
    monitor = {"every": EVERY, "images": 128, "on_collapse": "warn"}
    runtime = {"device": "cpu", "log_every": 1, "checkpoint_every": 3, "keep": 2, "monitor": monitor}
    step = {"head": {"hidden_dim": 256, "bottleneck_dim": 64, "prototypes": 2048}, "precision": "fp32"}
    values = {
        "stage": "pretraining",
        "recipe": {"steps": steps, "batch_size": 16, "crops": crops, "masking": {"min_patches": 1}},
        "models": {"student": model},
        "step": step,
        "runtime": {**runtime, "loader": {"workers": 1}, "parallel": {"kind": parallel}},
        "dataset": str(dataset.folder),
        "dataset_sha256": dataset.manifest_sha256,
        "work_root": str(work_root),
    }
    return values if kind == "pretraining" else values | taught(dataset, work_root, step, kind)


def taught(dataset: DatasetHandle, work_root: Path, step: dict[str, Any], kind: str) -> dict[str, Any]:
    """What a distillation from a teacher without heads says besides; `cached`: a regression of kept features."""
    folder = dataset.folder.parent / "teacher"
    if not folder.is_dir():
        torch.manual_seed(0)
        folder.mkdir()
        shown = PreprocessingConfig.square(_TEACHER.image_size, dataset.mean, dataset.std)
        save_backbone(folder, VisionTransformer(_TEACHER), extra=shown.section())
    own = {"prototypes": 64, "whitened_dim": 24} if kind == "clusters" else {"hidden_dim": 0}
    kept = {"views": 2, "places": _TEACHER.grid**2} if kind == "cached" else {}
    objective = "clusters" if kind == "clusters" else "regression"
    teaching = {"objective": objective, "dim": _TEACHER.embed_dim, "size": _TEACHER.image_size, "images": 64}
    return {
        "stage": "distillation",
        "teacher": str(folder),
        "teacher_sha256": hash_file(folder / "model.safetensors"),
        "teaching": {**teaching, **own, **kept},
        "cache": {"folder": str(work_root / "kept"), "views": 2} if kept else None,
        "step": {**step, "patch_share": 0.5},
    }


def make_dataset(folder: Path) -> DatasetHandle:
    """A curated dataset of made-up gratings: something can be learnt."""
    from trainings import write_dataset

    return write_dataset(folder, list(pictures()))


def pictures() -> Iterator[Pixels]:
    """Gratings of random direction, frequency and phase, ``[H, W, 1]``."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(IMAGES):
        angle, frequency, phase = draw.uniform(0, [np.pi, 1.5, 2 * np.pi])
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (0.2 + frequency) + phase)
        yield ((wave + 1) * 127 + draw.uniform(0, 1, x.shape)).astype(np.uint8)[..., None]
