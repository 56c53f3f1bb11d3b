"""A step that meets a number that is not finite changes nothing, and the next one is as if it had not been."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig
from dinomill.training.config import CenteringConfig, CenteringKind, OptimizerConfig, PretrainingStepConfig
from dinomill.training.loss_scaler import LossScaler
from dinomill.training.network import Network
from dinomill.training.objectives.pretraining import Pretraining
from dinomill.training.optimizer import build_optimizer, clip_gradients
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step import accumulated_step, train_step

HEAD = HeadConfig(hidden_dim=32, bottleneck_dim=16, prototypes=24)
BATCH, PATCHES = 4, 16


def values(step: int) -> ScheduleValues:
    return ScheduleValues(step, 1e-3, 1e-3, 0.04, 0.9, 0.07)


def batch(seed: int) -> Any:
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(2 * BATCH, PATCHES, generator=random) < 0.4
    return SimpleNamespace(
        global_crops=torch.randn(2 * BATCH, 3, 28, 28, generator=random),
        local_crops=torch.randn(2 * BATCH, 3, 14, 14, generator=random),
        masks=masks,
        mask_indices=masks.flatten().nonzero()[:, 0],
        mask_weights=(1 / masks.sum(1, keepdim=True).clamp(min=1)).expand_as(masks)[masks],
    )


def build(kind: CenteringKind, precision: str = "fp32") -> tuple[Pretraining, torch.optim.Optimizer]:
    torch.manual_seed(0)
    shape = VisionTransformerConfig(image_size=28, patch_size=7, embed_dim=16, depth=2, num_heads=2, layerscale=0.5)
    network = Network(VisionTransformer(shape), HEAD, separate_heads=False)
    config = PretrainingStepConfig(head=HEAD, centering=CenteringConfig(kind=kind), precision=precision)
    module = Pretraining({"student": network}, config).train()
    return module, build_optimizer(module, OptimizerConfig())


def state(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [tensor for part in optimizer.state.values() for tensor in part.values()]
    return [tensor.detach().clone() for tensor in [*module.state_dict().values(), *moments]]


def step(module: Pretraining, optimizer: torch.optim.Optimizer, number: int, made: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return train_step(module, module, optimizer, made, values(number), clip_gradient=3.0, generator=generator)


@pytest.mark.parametrize("kind", list(CenteringKind))
@pytest.mark.parametrize("where", ["global_crops", "local_crops"])
def test_a_bad_batch_changes_nothing(kind: CenteringKind, where: str) -> None:
    module, optimizer = build(kind)
    assert step(module, optimizer, 0, batch(0))["skipped"] == 0
    before = state(module, optimizer)
    bad = batch(1)
    getattr(bad, where)[0, 0, 0, 0] = torch.nan
    terms = step(module, optimizer, 1, bad)
    assert terms["skipped"] == 1
    assert not torch.isfinite(terms["total"])
    assert all(torch.equal(a, b) for a, b in zip(before, state(module, optimizer), strict=True))

    other, its_optimizer = build(kind)
    for pair in ((module, optimizer, 2), (other, its_optimizer, 0), (other, its_optimizer, 2)):
        step(*pair, batch(pair[2]))
    assert all(torch.equal(a, b) for a, b in zip(state(module, optimizer), state(other, its_optimizer), strict=True))


def test_a_bad_batch_at_the_very_beginning_leaves_the_initial_weights() -> None:
    module, optimizer = build(CenteringKind.SOFTMAX)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    bad = batch(0)
    bad.global_crops.fill_(torch.inf)
    assert step(module, optimizer, 0, bad)["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(part["step"] == 0 for part in optimizer.state.values())
    assert module.dino_centering.center.abs().sum() == 0


def test_a_loss_that_is_not_finite_though_its_gradient_is_counts() -> None:
    module, optimizer = build(CenteringKind.SINKHORN_KNOPP)
    before = state(module, optimizer)

    class Added(nn.Module):
        def forward(self, *arguments: Any) -> dict[str, torch.Tensor]:
            losses = module(*arguments)
            return losses | {"total": losses["total"] + torch.inf}  # a constant: no gradient shows it

    terms = accumulated_step(
        module, Added(), optimizer, [batch(0)], values(0), clip_gradient=3.0, generators=[torch.Generator()]
    )
    assert terms["skipped"] == 1
    after = state(module, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, after[: len(before)], strict=True))


def test_one_bad_micro_batch_leaves_out_the_step() -> None:
    module, optimizer = build(CenteringKind.SOFTMAX)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    good, bad = batch(0), batch(1)
    bad.local_crops[3] = torch.nan
    terms = accumulated_step(
        module, module, optimizer, [good, bad], values(0), clip_gradient=3.0, generators=[torch.Generator()] * 2
    )
    assert terms["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_half_precision_tells_an_overflow_from_a_bad_batch() -> None:
    module, optimizer = build(CenteringKind.SINKHORN_KNOPP, "fp16")
    scaler = LossScaler(scale=2.0**40)

    def scaled(made: Any) -> dict[str, torch.Tensor]:
        return accumulated_step(
            module, module, optimizer, [made], values(5), clip_gradient=3.0, generators=[None], scaler=scaler
        )

    before = [parameter.detach().clone() for parameter in module.parameters()]
    terms = scaled(batch(0))
    assert terms["skipped"] == 1
    assert all(torch.isfinite(term) for term in terms.values())
    assert scaler.scale == 2.0**39
    scaler.load({"scale": 2.0**6, "good": 0, "skipped": 1})
    bad = batch(1)
    bad.global_crops[0] = torch.nan
    terms = scaled(bad)
    assert terms["skipped"] == 1
    assert not torch.isfinite(terms["total"])
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    scaler.load({"scale": 1.0, "good": 0, "skipped": 2})
    assert scaled(batch(2))["skipped"] == 0
    assert scaler.state() == {"scale": 1.0, "good": 1, "skipped": 2}


def test_nothing_is_read_from_the_device() -> None:
    # Tensors on `meta` have no values: a read, such as `bool(tensor)` or `tensor.item()`, fails.
    module, _ = build(CenteringKind.SOFTMAX)
    module = copy.deepcopy(module).to("meta")
    for parameter in module.students.parameters():
        parameter.grad = torch.empty_like(parameter)
    norms = clip_gradients(module, 3.0)
    skipped = ~torch.isfinite(torch.stack(list(norms.values()))).all()
    scaler = LossScaler(device="meta")
    scaler.unscale(p.grad for p in module.students.parameters() if p.grad is not None)
    scaler.follow(skipped)
    module.update_averages(values(0), unless=skipped)
    assert scaler.exhausted.device.type == "meta"
