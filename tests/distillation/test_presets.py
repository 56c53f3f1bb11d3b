"""The configurations that ship are valid, and those of one environment fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.students import resolve_students
from dinomill.layers import Layers
from dinomill.pretraining.config import PretrainingConfig
from dinomill.training.starting import resolve_model

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("environment", ["base", "fashion"])
def test_students_see_what_the_teacher_saw(environment: str) -> None:
    parameters = Layers(None if environment == "base" else environment, conf=CONF).parameters
    teacher = PretrainingConfig.parse(parameters["pretraining"], where=environment)
    students = DistillationConfig.parse(parameters["distillation"], where=environment)
    assert students.crops.sizes[:2] == teacher.crops.sizes[:2] == (teacher.model.image_size,) * 2
    shape = resolve_model(teacher.model, None, None).model_dump()
    for student in resolve_students(students, shape, "teacher").values():
        assert (student.patch_size, student.in_channels) == (shape["patch_size"], shape["in_channels"])
        assert student.image_size == students.crops.global_size
        assert student.depth * student.embed_dim**2 < teacher.model.depth * teacher.model.embed_dim**2
