"""A colour teacher on a grey dataset, and weights for colour to start from: no second curation, and it is said."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import distil, distillation_job
from dinomill.handles import DatasetHandle
from dinomill.images.channels import conversion, converted_figures, may_become
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.loader import TrainingLoader
from dinomill.images.masking import MaskingConfig
from dinomill.models.weights import read_config
from dinomill.pretraining.config import PretrainingConfig
from dinomill.pretraining.pretrain import pretraining_job
from dinomill.serving.predictor import Predictor
from tests.distillation.test_teachers import STUDENT, config, write_teacher

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def chosen(folder: Path, **changes: Any) -> DistillationConfig:
    """EfficientNet-lite0 for a student that says nothing of channels."""
    student = {key: value for key, value in STUDENT.items() if key != "in_channels"}
    few = {"steps": 4, "teacher_size": 32, "teacher_images": 64, "students": {"small": student}}
    return config(folder, "efficientnet-lite0", **(few | changes))


@pytest.mark.parametrize(("objective", "cache"), [("clusters", None), ("regression", {"views": 1})])
def test_a_grey_dataset_teaches_by_a_colour_network(
    digits_dataset: DatasetHandle,
    digits_labelled: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    objective: str,
    cache: dict[str, Any] | None,
) -> None:
    assert digits_dataset.channels == 1
    kept = None if cache is None else cache | {"folder": str(tmp_path / "cache")}
    with caplog.at_level(logging.WARNING):
        monitor = {"every": 4, "images": 64, "copies": 16, "early": 0, "on_collapse": "warn"}
        runtime = {"device": "cpu", "log_every": 2, "monitor": monitor}
        asked = chosen(tmp_path, objective=objective, cache=kept, runtime=runtime)
        handle = distil(digits_dataset, None, str(digits_labelled), asked)
    said = [record.message for record in caplog.records if "grey is repeated into three channels" in record.message]
    assert len(said) == 1 and str(digits_dataset.folder) in said[0]
    small = handle.students["small"]
    assert read_config(small.folder)["model"]["in_channels"] == 3
    assert (small.mean, small.std) == IMAGENET
    # What it is then served: grey files and the same ones stored as colour are the same images to it.
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    grey, colour = (io.BytesIO() for _ in range(2))
    Image.fromarray(pixels).save(grey, "PNG")
    Image.fromarray(np.repeat(pixels[..., None], 3, axis=2)).save(colour, "PNG")
    # Each by itself: within a batch, threads may sum the rows in different orders.
    predictor = Predictor(small.folder)
    first, second = (predictor([one.getvalue()]) for one in (grey, colour))
    assert np.isfinite(first).all() and np.array_equal(first, second)


def test_crops_of_grey_images_have_three_equal_channels(digits_dataset: DatasetHandle) -> None:
    crops = MultiCropConfig(global_size=8, local_size=4, local_crops=2, blur=(0, 0, 0))
    settings: dict[str, Any] = {
        "crops": crops,
        "masking": MaskingConfig(),
        "patch_size": 4,
        "batch_size": 8,
        "seed": 0,
        "steps": 1,
    }
    with TrainingLoader(digits_dataset, **settings, mean=IMAGENET[0], std=IMAGENET[1]) as loader:
        (batch,) = list(loader)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    for part in (batch.global_crops, batch.local_crops):
        assert part.shape[1] == 3
        shown = part * std + mean
        assert torch.allclose(shown, shown[:, :1].expand_as(shown), atol=2 / 255)
        assert shown.std() > 0.1
    with TrainingLoader(digits_dataset, **settings) as loader:
        (grey,) = list(loader)
    assert grey.global_crops.shape[1] == 1  # of networks that take grey, nothing is repeated


def test_a_grey_network_sees_the_luminance_of_colour(digits_dataset: DatasetHandle, tmp_path: Path) -> None:
    colour = digits_dataset.model_copy(update={"channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3})
    job = distillation_job(colour, None, None, config(tmp_path, write_teacher(tmp_path / "grey")))
    assert job.models["small"].in_channels == 1 and job.mean == (0.3,)
    assert conversion(3, 1, "x", "the teacher") == (
        "The images of x are in colour, and the teacher takes grey: their luminance is what it sees of them."
    )
    assert conversion(3, 3, "x", "y") is None
    assert not may_become(5, 3) and not may_become(1, 5) and may_become(5, 5)


def test_weights_for_colour_start_a_training_on_grey(digits_dataset: DatasetHandle, tmp_path: Path) -> None:
    given = write_teacher(tmp_path / "colour", in_channels=3)
    values = {
        "work": str(tmp_path / "work"),
        "output": str(tmp_path / "out"),
        "initial": str(given),
        "model": "from_weights",
        "steps": 2,
        "batch_size": 8,
        "crops": {"global_size": 12, "local_size": 6, "local_crops": 2, "blur": [0, 0, 0]},
    }
    job = pretraining_job(digits_dataset, None, PretrainingConfig.parse(values, where="a test"))
    assert job.models["student"].in_channels == 3
    assert (job.mean, job.std) == ((0.3,) * 3, (0.4,) * 3)  # as the weights say
    assert converted_figures(digits_dataset.mean, 3) == digits_dataset.mean * 3  # where nothing says it
    assert converted_figures((0.4, 0.5, 0.6), 1) == (0.4815,)
