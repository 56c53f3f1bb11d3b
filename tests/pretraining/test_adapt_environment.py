"""conf/adapt is valid in every stage, fits released weights, and asks for them when they are not named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinomill.config_loader import LayeredConfigLoader
from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import resolve_students
from dinomill.errors import ConfigError
from dinomill.evaluation.config import EvaluationConfig
from dinomill.models.config import variant
from dinomill.pretraining.config import PretrainingConfig
from dinomill.registration.config import RegistrationConfig
from dinomill.settings import CONFIG_LOADER_ARGS
from dinomill.training.schedules import Schedules
from dinomill.training.starting import StartingWeights, resolve_model

CONF = Path(__file__).parents[2] / "conf"
RELEASED = StartingWeights(
    "a.pth", "a.pth", variant("small", image_size=518), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "0" * 64
)


def parameters(stage: str) -> dict[str, Any]:
    loader = LayeredConfigLoader(str(CONF), env="adapt", **CONFIG_LOADER_ARGS)
    found: dict[str, Any] = loader["parameters"][stage]
    return found


def test_training_fits_released_weights() -> None:
    config = PretrainingConfig.parse(parameters("pretraining"), where="conf/adapt")
    assert str(config.output).startswith("data/adapt/")
    assert resolve_model(config.model, RELEASED, 3) == RELEASED.model
    patch = RELEASED.model.patch_size
    assert config.crops.global_size % patch == 0
    assert config.crops.local_size % patch == 0
    assert config.batch_size % config.accumulate == 0
    schedules = Schedules(config.schedule, steps=config.steps, batch=config.batch_size, adaptation=config.adaptation)
    assert schedules.at(0).frozen
    assert not schedules.at(config.steps - 1).frozen


def test_without_weights_it_says_where_to_name_them() -> None:
    config = PretrainingConfig.parse(parameters("pretraining"), where="conf/adapt")
    assert config.initial is None
    with pytest.raises(ConfigError, match=r"--params pretraining\.initial=ADDRESS"):
        resolve_model(config.model, None, 3)


def test_the_other_stages_go_with_it() -> None:
    distillation = DistillationConfig.parse(parameters("distillation"), where="conf/adapt")
    students = resolve_students(distillation, RELEASED.model.model_dump(), "the teacher")
    assert students["small"].in_channels == 3
    assert EvaluationConfig.parse(parameters("evaluation"), where="conf/adapt").precision == "auto"
    gate = RegistrationConfig.parse(parameters("registration"), where="conf/adapt").gate
    assert gate.max_drop_from_start == 0
    assert parameters("curation")["write"]["channels"] == "auto"  # networks for colour take grey by themselves


@pytest.mark.parametrize("stage", ["pretraining", "distillation", "evaluation", "registration"])
def test_every_file_opens_with_its_command(stage: str) -> None:
    head = (CONF / "adapt" / stage / "parameters.yml").read_text().split(f"\n{stage}:")[0]
    assert "conf/adapt/pretraining" in head or "kedro run --env adapt" in head
