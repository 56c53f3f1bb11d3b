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


def test_the_papers_distillation_is_what_was_published() -> None:
    parameters = Layers("paper/distilled", conf=CONF).parameters
    config = DistillationConfig.parse(parameters["distillation"], where="paper/distilled")
    assert not config.own_teacher
    teacher = resolve_model(
        PretrainingConfig.parse(Layers("paper/vitg14", conf=CONF).parameters["pretraining"], where="g").model, None, 3
    )
    students = resolve_students(config, teacher.model_dump(), "g")
    shapes = {name: (model.embed_dim, model.depth, model.num_heads, model.ffn) for name, model in students.items()}
    assert shapes == {"small": (384, 12, 6, "mlp"), "base": (768, 12, 12, "mlp"), "large": (1024, 24, 16, "mlp")}
    assert {model.patch_size for model in students.values()} == {14}
    rate = config.schedule.learning_rate * (config.batch_size / 1024) ** 0.5
    assert (config.batch_size, rate) == (2048, pytest.approx(1e-3, rel=1e-3))
    assert config.step.patch_share == 1.0
    assert config.steps == 625_000
