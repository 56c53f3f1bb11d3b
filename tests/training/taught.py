"""Jobs of students that a small teacher without heads teaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone
from dinomill.storage.hashing import hash_file
from dinomill.training.job import TrainingJob

SHAPE = VisionTransformerConfig(
    image_size=12, patch_size=3, in_channels=1, embed_dim=24, depth=1, num_heads=2, layerscale=1.0
)
PLACES = 16
TEACHING: dict[str, dict[str, Any]] = {
    "regression": {"hidden_dim": 0},
    "whitened": {"objective": "regression", "hidden_dim": 8, "whitened_dim": 12},
    "clusters": {"prototypes": 24, "whitened_dim": 12},
}


def write_teacher(folder: Path) -> Path:
    """A teacher for crops of 12 pixels."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    save_backbone(folder, VisionTransformer(SHAPE), extra=PreprocessingConfig.square(12, (0.3,), (0.4,)).section())
    return folder


def taught_job(
    make_job: Callable[..., TrainingJob],
    teacher: Path,
    objective: str = "regression",
    *,
    cache: Path | None = None,
    **changes: Any,
) -> TrainingJob:
    """A distillation of the tiny model; keywords change nested keys of it.

    Args:
        make_job: The fixture.
        teacher: From ``write_teacher``.
        objective: One of ``TEACHING``.
        cache: Where its features are kept; None: nowhere.
        **changes: As for the fixture.
    """
    teaching: dict[str, Any] = {"objective": objective, "dim": 24, "size": 12, "images": 64, **TEACHING[objective]}
    if cache is not None:
        teaching |= {"views": 2, "places": PLACES}
    made = make_job(**changes)
    step = {**made.step.model_dump(exclude={"drop_path"}), "patch_share": 1.0}
    step["losses"] |= {"koleo_weight": 0.0}
    values = {
        "stage": "distillation",
        "teacher": str(teacher),
        "teacher_sha256": hash_file(teacher / "model.safetensors"),
        "teaching": teaching,
        "cache": None if cache is None else {"folder": str(cache), "views": 2},
        "mean": [0.3],
        "std": [0.4],
        "step": step,
    }
    return TrainingJob.parse({**made.model_dump(), **values}, where="a test")
