"""A loss curve of 200 steps that any change of the arithmetic bends.

`python tests/training/test_golden_curve.py` writes the curve anew: do so only when the arithmetic was meant to change,
and say why in the commit.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig
from dinomill.training.config import OptimizerConfig, PretrainingStepConfig
from dinomill.training.losses.config import LossConfig
from dinomill.training.network import Network
from dinomill.training.objectives.pretraining import Pretraining
from dinomill.training.optimizer import build_optimizer
from dinomill.training.schedules import ScheduleConfig, Schedules
from dinomill.training.step import train_step

CURVE = Path(__file__).with_name("golden_curve.json")
STEPS, BATCH, LOCALS = 200, 8, 2
LEARNING_RATE = 0.003
# Initial weights changed by one part in 10 million, or another number of threads, move each term by less than 3e-5 of
# its mean size; a changed constant or a forgotten factor moves it by more than 1e-2.
TOLERANCE = 5e-4


@dataclass
class Batch:
    global_crops: torch.Tensor
    local_crops: torch.Tensor
    masks: torch.Tensor
    mask_indices: torch.Tensor
    mask_weights: torch.Tensor


def make_batch(step: int) -> Batch:
    """Gratings of random direction and frequency, cropped with random phase and noise: something can be learnt."""
    random = torch.Generator().manual_seed(step)
    angle, frequency = (
        torch.rand(BATCH, 1, 1, 1, generator=random) * 3.14,
        1 + torch.rand(BATCH, 3, 1, 1, generator=random),
    )

    def crops(count: int, size: int) -> torch.Tensor:
        line = torch.arange(size, dtype=torch.float32)
        phase = 6.28 * torch.rand(count, BATCH, 1, 1, 1, generator=random)
        wave = torch.cos(angle) * line[:, None] + torch.sin(angle) * line
        noise = torch.randn(count, BATCH, 3, size, size, generator=random)
        return (torch.sin(frequency * wave + phase) + 0.3 * noise).flatten(0, 1)

    masks = torch.rand(2 * BATCH, 16, generator=random) < 0.3
    masks[::2] = False
    weights = (1 / masks.sum(1, keepdim=True).clamp(min=1)).expand_as(masks)[masks]
    return Batch(crops(2, 28), crops(LOCALS, 14), masks, masks.flatten().nonzero()[:, 0], weights)


def curve(
    precision: str = "fp32", steps: int = STEPS, perturbation: float = 0.0, losses: LossConfig | None = None
) -> dict[str, list[float]]:
    """The loss terms and gradient norms of a run, rounded to seven digits."""
    torch.manual_seed(0)
    head = HeadConfig(hidden_dim=64, bottleneck_dim=32, prototypes=64)
    backbone = VisionTransformer(
        VisionTransformerConfig(image_size=28, patch_size=7, embed_dim=32, depth=3, num_heads=2, layerscale=0.5)
    )
    network = Network(backbone, head, separate_heads=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 1 + perturbation
    config = PretrainingStepConfig(
        head=head, separate_heads=True, drop_path=0.2, precision=precision, losses=losses or LossConfig()
    )
    module = Pretraining({"student": network}, config).train()
    optimizer = build_optimizer(module, OptimizerConfig())
    schedules = Schedules(ScheduleConfig(learning_rate=LEARNING_RATE, frozen_last_layer=10), steps=STEPS, batch=BATCH)
    rows = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        rows.append(
            train_step(
                module, module, optimizer, make_batch(step), schedules.at(step), clip_gradient=3.0, generator=generator
            )
        )
    assert not any(row.pop("skipped") for row in rows), "every update was made"
    return {name: [float(f"{float(row[name]):.7g}") for row in rows] for name in rows[0]}


def deviation(actual: dict[str, list[float]], expected: dict[str, list[float]]) -> float:
    """The largest deviation of a term, relative to the term's mean size."""
    worst = 0.0
    for name, values in expected.items():
        want, got = torch.tensor(values), torch.tensor(actual[name])
        worst = max(worst, float((got - want).abs().max() / want.abs().mean()))
    return worst


@pytest.fixture(scope="module")
def fresh():
    return curve()


def test_the_curve_is_what_it_was(fresh):
    expected = json.loads(CURVE.read_text(encoding="utf-8"))
    assert fresh.keys() == expected.keys()
    assert deviation(fresh, expected) < TOLERANCE


def test_the_tolerance_sees_a_small_change_of_a_constant(fresh):
    changed = curve(steps=20, losses=LossConfig(student_temperature=0.101))
    assert deviation(changed, {name: values[:20] for name, values in fresh.items()}) > 2 * TOLERANCE


def test_bf16_follows_at_first(fresh):
    rounded = curve("bf16", steps=20)
    assert deviation({"total": rounded["total"]}, {"total": fresh["total"][:20]}) < 0.02


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in curve().items())
    CURVE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
