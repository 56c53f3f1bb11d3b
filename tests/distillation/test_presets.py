"""The configurations that ship are valid, and those of one environment fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader

from dinomill.distillation.config import DistillationConfig
from dinomill.pretraining.config import PretrainingConfig
from dinomill.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("environment", ["base", "fashion"])
def test_students_see_what_the_teacher_saw(environment: str) -> None:
    parameters = OmegaConfigLoader(str(CONF), env=environment, **CONFIG_LOADER_ARGS)["parameters"]
    teacher = PretrainingConfig.parse(parameters["pretraining"], where=environment)
    students = DistillationConfig.parse(parameters["distillation"], where=environment)
    assert students.crops.sizes[:2] == teacher.crops.sizes[:2] == (teacher.model.image_size,) * 2
    for student in students.students.values():
        assert (student.patch_size, student.in_channels) == (teacher.model.patch_size, teacher.model.in_channels)
        assert student.depth * student.embed_dim**2 < teacher.model.depth * teacher.model.embed_dim**2
