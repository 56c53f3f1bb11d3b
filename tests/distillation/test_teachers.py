"""Teachers that this project did not train, and teachers without heads: what is learnt of them, and what is refused."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import distil, distillation_job
from dinomill.distillation.teacher import find_teacher, given_shape, teaching
from dinomill.errors import ConfigError, DinomillError, InputError
from dinomill.handles import HEADS_NAME, DatasetHandle, StudentsHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, load, save_backbone
from dinomill.training.hand_on import places_of
from dinomill.training.worker import main

SHAPE = VisionTransformerConfig(
    image_size=12, patch_size=3, in_channels=1, embed_dim=24, depth=1, num_heads=2, layerscale=1.0
)
STUDENT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "layerscale": 1.0}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A backbone without heads, of another patch size and width than the students."""
    return write_teacher(tmp_path / "teacher")


def write_teacher(folder: Path, seed: int = 0, **changes: Any) -> Path:
    torch.manual_seed(seed)
    model = VisionTransformer(SHAPE.model_copy(update=changes))
    for block in model.blocks:  # freshly drawn blocks hardly change what passes through
        torch.nn.init.normal_(block.mlp.fc2.weight, std=0.3)
    channels = model.config.in_channels
    shown = PreprocessingConfig.square(12, (0.3,) * channels, (0.4,) * channels)
    folder.mkdir(parents=True, exist_ok=True)
    save_backbone(folder, model, extra=shown.section())
    return folder


def config(folder: Path, teacher: Path | str | None, **changes: Any) -> DistillationConfig:
    values: dict[str, Any] = {
        "work": str(folder / "work"),
        "output": str(folder / "output"),
        "teacher": None if teacher is None else str(teacher),
        "teacher_images": 128,
        "steps": 8,
        "batch_size": 16,
        "students": {"small": STUDENT},
        "clusters": {"prototypes": 24, "dim": 12},
        "step": {"head": {"hidden_dim": 32}, "precision": "fp32", "losses": {"koleo_weight": 0.0}},
        "crops": {"global_size": 8, "local_size": 4, "local_crops": 2, "blur": [0, 0, 0]},
        "runtime": {"device": "cpu", "log_every": 2, "checkpoint_every": 3, "monitor": {"every": 0}},
    }
    return DistillationConfig.parse(values | changes, where="a test")


@pytest.mark.parametrize("objective", ["clusters", "regression"])
def test_students_learn_from_features_alone(
    objective: str, digits_dataset: DatasetHandle, digits_labelled: Path, teacher: Path, tmp_path: Path
) -> None:
    students = {"small": STUDENT, "fine": STUDENT | {"patch_size": 2}}
    monitor = {"every": 4, "images": 64, "copies": 16, "early": 0, "on_collapse": "warn"}
    runtime = {"device": "cpu", "log_every": 2, "monitor": monitor}
    schedule = {"learning_rate": 0.05, "warmup": 2}
    chosen = config(
        tmp_path, teacher, objective=objective, students=students, steps=20, runtime=runtime, schedule=schedule
    )
    handle = distil(digits_dataset, None, str(digits_labelled), chosen)
    assert isinstance(handle, StudentsHandle)
    for name, student in handle.students.items():
        assert student.mean == (0.3,)  # they see what the teacher sees
        assert load(student.folder).config.patch_size == students[name]["patch_size"]
        assert student.teacher_sha256 is not None
        rows = [row for row in pq.read_table(student.history).to_pylist() if row.get("loss") is not None]
        terms = ("ibot", "dino_global") if objective == "clusters" else ("patches", "class_global")
        for term in terms:
            assert rows[-1][term] < rows[0][term]
        # Its projectors are no heads that a distillation could learn assignments from.
        own = find_teacher(config(tmp_path, student.folder), None)
        assert (own.heads_sha256 is None) == (objective == "regression")
        assert (student.folder / HEADS_NAME).is_file()


def test_what_is_learnt_follows_from_what_the_teacher_has(digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path):
    found = find_teacher(config(tmp_path, teacher), None)
    assert (found.heads_sha256, found.dim, found.image_size) == (None, 24, 12)
    resolved = teaching(config(tmp_path, teacher), found, digits_dataset)
    assert resolved is not None
    assert resolved.size == 12
    with pytest.raises(ConfigError, match="no heads whose assignments"):
        teaching(config(tmp_path, teacher, objective="assignments"), found, digits_dataset)
    with pytest.raises(ConfigError, match=r"teacher_size.*patches of 3 pixels, and 13"):
        teaching(config(tmp_path, teacher, teacher_size=13), found, digits_dataset)
    with pytest.raises(ConfigError, match="no anchor"):
        step = {"losses": {"gram": {}}}
        teaching(config(tmp_path, teacher, step=step), found, digits_dataset)


def test_no_teacher_and_none_that_can_be_opened(digits_dataset: DatasetHandle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no teacher to distil from") as caught:
        distil(digits_dataset, None, None, config(tmp_path, None))
    assert "distillation.teacher=ADDRESS" in str(caught.value)
    with pytest.raises(InputError, match=r"distillation\.teacher: There is no .*nowhere"):
        distil(digits_dataset, None, None, config(tmp_path, "nowhere.pth"))


def test_a_teacher_of_channels_that_no_rule_makes_is_refused(digits_dataset: DatasetHandle, tmp_path: Path) -> None:
    many = write_teacher(tmp_path / "many", in_channels=5)
    with pytest.raises(ConfigError, match="differ in their number of channels") as caught:
        distil(digits_dataset, None, None, config(tmp_path, many))
    assert "1 in" in str(caught.value) and "5 in" in str(caught.value)
    assert "only grey becomes colour" in str(caught.value)


def test_a_student_larger_than_its_teacher_is_said(
    digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        distillation_job(digits_dataset, None, None, config(tmp_path, teacher))
        assert not caplog.records
        large = STUDENT | {"embed_dim": 64, "depth": 4}
        distillation_job(digits_dataset, None, None, config(tmp_path, teacher, students={"large": large}))
    assert "larger than what it learns from" in caplog.text


def test_a_teacher_that_was_replaced_is_refused(digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path) -> None:
    chosen = config(tmp_path, teacher)
    job = distillation_job(digits_dataset, None, None, chosen)
    distil(digits_dataset, None, None, chosen)
    shutil.rmtree(job.exported)  # as if it had been killed before the end
    write_teacher(teacher, seed=1)
    other = distillation_job(digits_dataset, None, None, chosen)
    with pytest.raises(ConfigError, match="was replaced since") as caught:
        distil(digits_dataset, None, None, chosen)
    for sha in (job.teacher_sha256, other.teacher_sha256):
        assert sha is not None
        assert sha in str(caught.value)
    write_teacher(teacher)
    assert distil(digits_dataset, None, None, chosen).students["small"].steps == 8


def test_a_worker_refuses_another_teacher_than_its_job_names(
    digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = distillation_job(digits_dataset, None, None, config(tmp_path, teacher))
    write_teacher(teacher, seed=1)
    other = distillation_job(digits_dataset, None, None, config(tmp_path, teacher))
    assert main([str(job.save())]) == 2
    said = capfd.readouterr().err
    assert job.teacher_sha256 in said and other.teacher_sha256 in said


def test_the_identity_of_other_jobs_is_as_it_was(digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path) -> None:
    job = distillation_job(digits_dataset, None, None, config(tmp_path, teacher))
    assert job.identity()["teaching"]["objective"] == job.objective == "clusters"
    assert "teaching" not in job.model_copy(update={"teaching": None}).identity()


def test_features_that_are_not_finite_are_refused(digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path) -> None:
    model = load(teacher)
    with torch.no_grad():
        model.norm.weight[0] = 3e38  # finite itself, and what it gives is not
    save_backbone(teacher, model, extra=PreprocessingConfig.square(12, (0.3,), (0.4,)).section())
    with pytest.raises(DinomillError, match="not finite"):
        distil(digits_dataset, None, None, config(tmp_path, teacher))


def test_features_that_are_the_same_for_every_image_are_refused(
    digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path
) -> None:
    """It ended as a loss that is not finite, with the advice to lower the learning rate."""
    model = load(teacher)
    with torch.no_grad():
        model.patch_embed.proj.weight.zero_()
    save_backbone(teacher, model, extra=PreprocessingConfig.square(12, (0.3,), (0.4,)).section())
    with pytest.raises(DinomillError, match="gives the same features for all classes"):
        distil(digits_dataset, None, None, config(tmp_path, teacher))


def test_a_size_that_the_teacher_cannot_see_is_refused_before_anything_runs(teacher: Path, tmp_path: Path) -> None:
    assert given_shape(config(tmp_path, teacher, teacher_size=15))["patch_size"] == 3
    with pytest.raises(ConfigError, match=r"teacher_size.*patches of 3 pixels, and 13"):
        given_shape(config(tmp_path, teacher, teacher_size=13))
    # Pretraining's has heads, whose assignments are of the students' crops.
    with pytest.raises(ConfigError, match="teacher_size: with the objective `assignments`"):
        config(tmp_path, None, teacher_size=64)
    assert config(tmp_path, None, teacher_size=64, objective="clusters").teacher_size == 64


def test_workers_elsewhere_have_to_see_teacher_and_cache(
    digits_dataset: DatasetHandle, teacher: Path, tmp_path: Path
) -> None:
    cache = {"folder": str(tmp_path / "kept"), "views": 1}
    job = distillation_job(digits_dataset, None, None, config(tmp_path, teacher, cache=cache))
    assert places_of(job) == [digits_dataset.folder, teacher, tmp_path / "kept"]
    assert places_of(job.model_copy(update={"teacher": "efficientnet-lite0", "cache": None})) == [digits_dataset.folder]


def test_a_teacher_is_not_replaced_by_its_own_students(digits_dataset: DatasetHandle, tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "output" / "edge")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="lies in the folder that this stage writes") as caught:
        distil(digits_dataset, None, None, config(tmp_path, folder))
    assert "copy it elsewhere" in str(caught.value)
    assert (folder / "model.safetensors").read_bytes() == before
