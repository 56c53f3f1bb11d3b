from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import distil
from dinomill.distillation.students import resolve_students
from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle, ModelHandle, StudentsHandle
from dinomill.models import load
from dinomill.pretraining.config import PretrainingConfig
from dinomill.pretraining.pretrain import pretrain

MODEL = {"image_size": 8, "patch_size": 4, "in_channels": 1, "embed_dim": 32, "depth": 2, "num_heads": 2}


def shared(folder: Path) -> dict[str, Any]:
    return {
        "work": str(folder / "work"),
        "output": str(folder / "output"),
        "steps": 6,
        "batch_size": 16,
        "crops": {"global_size": 8, "local_size": 4, "local_crops": 2, "blur": [0, 0, 0]},
        "runtime": {"device": "cpu", "log_every": 2, "monitor": {"every": 0}},
    }


@pytest.fixture(scope="module")
def teacher(digits_dataset: DatasetHandle, tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    values = shared(tmp_path_factory.mktemp("teacher"))
    step = {"head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 64}}
    values |= {"model": MODEL | {"layerscale": 1.0}, "step": step, "masking": {"min_patches": 1}, "steps": 3}
    return pretrain(digits_dataset, None, PretrainingConfig.parse(values, where="a test"))


def config(folder: Path, **changes: Any) -> DistillationConfig:
    small = MODEL | {"embed_dim": 16, "layerscale": 1.0}
    values = shared(folder) | {
        "students": {"small": small, "tiny": small | {"depth": 1}},
        "step": {"head": {"hidden_dim": 32, "bottleneck_dim": 16}},
    }
    return DistillationConfig.parse(values | changes, where="a test")


def test_students_are_handed_on_by_name(
    digits_dataset: DatasetHandle, teacher: ModelHandle, digits_labelled: Path, tmp_path: Path
) -> None:
    chosen = config(tmp_path, champion="tiny")
    stale = tmp_path / "output" / "gone"
    stale.mkdir(parents=True)
    handle = distil(digits_dataset, teacher, str(digits_labelled), chosen)
    handle.save()
    assert StudentsHandle.load(handle.folder) == handle
    assert list(handle.students) == ["small", "tiny"]
    assert handle.champion == "tiny"
    assert not stale.exists()
    for name, student in handle.students.items():
        assert student.folder == handle.folder / name
        assert student.teacher_sha256 == teacher.weights_sha256
        assert ModelHandle.load(student.folder) == student
        assert load(student.folder)(torch.zeros(1, 1, 8, 8)).shape == (1, 16)
        rows = pq.read_table(student.history).to_pylist()
        assert [row["step"] for row in rows] == [2, 4, 6]
        assert all(row["ibot"] > 0 and row["dino_local"] > 0 for row in rows)
    assert handle.students["tiny"].parameters < handle.students["small"].parameters < teacher.parameters
    assert load(teacher.folder).state_dict().keys()


def test_patches_that_do_not_fit_the_crops_and_other_channels_are_refused(
    digits_dataset: DatasetHandle, teacher: ModelHandle, tmp_path: Path
) -> None:
    other = MODEL | {"patch_size": 3, "image_size": 9}
    with pytest.raises(ConfigError, match=r"distillation\.students\.odd\.patch_size") as caught:
        distil(digits_dataset, teacher, None, config(tmp_path, students={"odd": other}))
    assert "crops.global_size to 9" in str(caught.value)
    with pytest.raises(ConfigError, match=r"distillation\.students\.odd\.in_channels"):
        distil(digits_dataset, teacher, None, config(tmp_path, students={"odd": MODEL | {"in_channels": 3}}))
    many = digits_dataset.model_copy(update={"channels": 5})
    with pytest.raises(ConfigError, match="number of channels"):
        distil(many, teacher, None, config(tmp_path))
    assert not (tmp_path / "work").exists()


def test_what_follows_from_teacher_and_crops_need_not_be_written(tmp_path: Path) -> None:
    stated = {key: value for key, value in MODEL.items() if key not in ("image_size", "patch_size", "in_channels")}
    short, long = config(tmp_path, students={"small": stated}), config(tmp_path, students={"small": MODEL})
    teacher = {"patch_size": 4, "in_channels": 1}
    assert resolve_students(short, teacher, "teacher") == resolve_students(long, teacher, "teacher")


@pytest.mark.parametrize(("sizes", "patch"), [((224, 98), 14), ((224, 96), 16), ((32, 16), 4), ((8, 4), 1)])
def test_students_of_a_teacher_without_patches_have_the_usual_ones(
    tmp_path: Path, sizes: tuple[int, int], patch: int
) -> None:
    stated = {key: value for key, value in MODEL.items() if key not in ("image_size", "patch_size")}
    crops = {"global_size": sizes[0], "local_size": sizes[1], "blur": [0, 0, 0]}
    chosen = config(tmp_path, students={"small": stated}, crops=crops)
    (found,) = resolve_students(chosen, {"in_channels": 1}, "teacher").values()
    assert (found.image_size, found.patch_size) == (sizes[0], patch)


def test_champion_and_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the students: small, tiny"):
        config(tmp_path, champion="large")
    with pytest.raises(ConfigError, match="becomes a folder"):
        config(tmp_path, students={"../up": MODEL})
