"""The presets of the paper are valid, and say what the paper and its code say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.layers import Layers
from dinomill.pretraining.config import PretrainingConfig
from dinomill.training.schedules import Schedules

CONF = Path(__file__).parents[2] / "conf"


def preset(name: str) -> PretrainingConfig:
    parameters = Layers(f"paper/{name}", conf=CONF).parameters
    return PretrainingConfig.parse(parameters["pretraining"], where=name)


PRESETS = sorted(path.parent.name for path in (CONF / "paper").glob("*/pretraining"))


def test_all_are_there() -> None:
    assert PRESETS == ["high_resolution", "vitg14", "vitl14", "vitl16_short"]


@pytest.mark.parametrize("name", PRESETS)
def test_it_opens_with_its_command_and_the_published_result(name: str) -> None:
    head = (CONF / "paper" / name / "pretraining" / "parameters.yml").read_text().split("\npretraining:")[0]
    assert f"kedro run --env paper/{name} --pipelines pretraining" in head
    assert "Published" in head


# Peak learning rate: base · √(batch / 1024), RECIPE of the released models.
@pytest.mark.parametrize(
    ("name", "parameters", "tokens", "prototypes", "peak"),
    [
        ("vitl16_short", 303e6, 14, 65536, 4e-3 * 2**0.5),
        ("vitl14", 304e6, 16, 131072, 2e-4 * 3**0.5),
        ("vitg14", 1135e6, 16, 131072, 2e-4 * 3**0.5),
        ("high_resolution", 304e6, 37, 131072, 1e-4 * 1.5**0.5),
    ],
)
def test_sizes_and_rates(name: str, parameters: float, tokens: int, prototypes: int, peak: float) -> None:
    import torch

    from dinomill.models import VisionTransformer

    config = preset(name)
    with torch.device("meta"):
        model = VisionTransformer(config.model)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)
    assert config.model.grid == tokens
    assert config.step.head.prototypes == prototypes
    schedules = Schedules(config.schedule, steps=config.steps, batch=config.batch_size)
    values = [schedules.at(step).learning_rate for step in range(0, config.steps, 100)]
    assert max(values) == pytest.approx(peak, rel=1e-3)
    last = schedules.at(config.steps - 1)
    assert last.learning_rate == pytest.approx(1e-6, rel=0.01)
    assert last.momentum == pytest.approx(1.0)
    assert config.batch_size % config.launcher.world_size == 0


def test_the_long_recipes_differ_from_the_short_one_as_published() -> None:
    short, long, giant = preset("vitl16_short"), preset("vitl14"), preset("vitg14")
    assert (short.steps, short.batch_size, short.schedule.warmup) == (125_000, 2048, 12_500)
    assert (long.steps, long.batch_size, long.schedule.warmup) == (625_000, 3072, 100_000)
    assert not short.step.separate_heads
    assert long.step.separate_heads
    assert short.step.centering.kind == "softmax"
    assert long.step.centering.kind == "sinkhorn_knopp"
    assert (short.schedule.weight_decay_end, long.schedule.weight_decay_end) == (0.4, 0.2)
    assert (short.schedule.momentum, long.schedule.momentum) == (0.992, 0.994)
    assert (short.optimizer.layerwise_decay, long.optimizer.layerwise_decay) == (0.9, 1.0)
    same = {"name", "model", "launcher", "work", "output"}  # each recipe has results of its own
    assert giant.model_dump(exclude=same) == long.model_dump(exclude=same)
