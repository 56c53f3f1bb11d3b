"""What a GPU would stumble over, seen without one: on the meta device nothing can be read and devices cannot be mixed.

The kernels of a step are counted too. The numbers are those of ViT-S/14 with the paper's crops; write them anew only
where a step was meant to launch more or fewer, and say why in the commit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dinomill.handles import DatasetHandle
from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig, variant
from dinomill.training.config import DistillationStepConfig, OptimizerConfig, PretrainingStepConfig, StepConfig
from dinomill.training.counting import StepCounter
from dinomill.training.engine import Engine
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.network import Network
from dinomill.training.objectives.assignments import Assignments
from dinomill.training.objectives.pretraining import Pretraining
from dinomill.training.optimizer import build_optimizer
from dinomill.training.parallel import World
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step import accumulated_step

MakeJob = Callable[..., TrainingJob]
META = torch.device("meta")
BATCH, MASKED = 32, 2457
HEAD = HeadConfig(prototypes=131_072)

# Kernels of a step by what is configured.
KERNELS = {
    "sinkhorn": 2784,
    "softmax": 2579,
    "koleo_groups": 2816,
    "recomputed": 2988,
    "rope": 3377,
    "accumulated": 5183,
    "distillation": 2635,
    "gram": 3051,
    "sigreg": 2890,
}


@pytest.fixture(autouse=True)
def _fused_adamw_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel is known there; the list that the constructor asks leaves the device out.
    home = sys.modules["torch.optim.optimizer"]  # torch.optim deletes the attribute
    monkeypatch.setattr(home, "_get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", "meta"])


def values(step: int) -> ScheduleValues:
    return ScheduleValues(step, 1e-3, 1e-3, 0.04, 0.9, 0.07)


def batch() -> SimpleNamespace:
    with META:
        return SimpleNamespace(
            global_crops=torch.empty(2 * BATCH, 3, 224, 224),
            local_crops=torch.empty(8 * BATCH, 3, 98, 98),
            masks=torch.empty(2 * BATCH, 256, dtype=torch.bool),
            mask_indices=torch.empty(MASKED, dtype=torch.int64),
            mask_weights=torch.empty(MASKED),
            anchor_crops=torch.empty(2 * BATCH, 3, 448, 448),
        )


def network(model: VisionTransformerConfig) -> Network:
    with META:
        return Network(VisionTransformer(model), HEAD, separate_heads=True)


def config(name: str) -> StepConfig:
    common: dict[str, Any] = {"head": HEAD, "separate_heads": True, "precision": "fp32"}
    if name == "distillation":
        return DistillationStepConfig(**common, patch_share=0.5)
    changes: dict[str, Any] = {
        "softmax": {"centering": {"kind": "softmax"}},
        "koleo_groups": {"losses": {"koleo_group": 16}},
        "recomputed": {"recomputed_blocks": 0.5},
        "gram": {"losses": {"gram": {"start": 0}}},
        "sigreg": {"losses": {"sigreg": {}}},
    }.get(name, {})
    return PretrainingStepConfig(**common, **changes)


def whole_step(name: str) -> StepCounter:
    """The second step of a training, with the counter that watched it."""
    model = variant("small", image_size=224, patch_size=14)
    if name == "rope":
        model = model.model_copy(update={"position": "rope", "registers": 4})
    step = config(name)
    teacher = network(variant("base", image_size=224, patch_size=14)) if name == "distillation" else None
    students = {"student": network(model)}
    module = Pretraining(students, step) if teacher is None else Assignments(students, step, teacher)
    module = module.to(META).train()
    optimizer = build_optimizer(module, OptimizerConfig())
    batches: Sequence[Any] = [batch()] * (2 if name == "accumulated" else 1)
    for index in range(2):
        generators = [torch.Generator().manual_seed(index) for _ in batches]
        with StepCounter("meta") as counter:
            sums = accumulated_step(
                module, module, optimizer, batches, values(index), clip_gradient=3.0, generators=generators
            )
    assert all(value.is_meta for value in sums.values())
    return counter


@pytest.mark.parametrize("name", KERNELS)
def test_a_step_reads_nothing_and_launches_no_more_than_it_did(name: str) -> None:
    counter = whole_step(name)
    assert not counter.reads
    # Another version of PyTorch may take some operations apart in another way.
    assert counter.total == pytest.approx(KERNELS[name], rel=0.005), counter.kernels.most_common(30)


def test_batches_and_the_engine_on_a_device_of_their_own(make_job: MakeJob, digits_dataset: DatasetHandle) -> None:
    """From the files to the moved average: augmentation, step, and what the monitor asks for."""
    job = make_job(recipe={"steps": 2})
    world = World(0, 1, META)
    engine = Engine(job, world)
    with build_loader(job, digits_dataset, world, start_step=0) as loader:
        for step, made in enumerate(loader):
            assert made.global_crops.is_meta
            assert made.masks.is_meta
            with StepCounter("meta") as counter:
                sums = engine.step(step, [made])
            assert not counter.reads
            assert all(value.is_meta for value in sums.values())
    for who in ("average", "student", "teacher"):
        with StepCounter("meta") as counter, torch.no_grad():
            seen = engine.module.look("student", torch.empty(5, 1, 8, 8, device=META), who)
        assert seen.embedding.shape == (5, 32)
        assert not counter.reads


def reads() -> Iterator[tuple[str, Callable[[Tensor], object]]]:
    yield "item", lambda x: x.sum().item()
    yield "bool", lambda x: bool(x.sum() > 0)
    yield "nonzero", lambda x: x.nonzero()
    yield "mask", lambda x: x[x > 0]
    yield "assigned by mask", lambda x: x.index_put_((x > 0,), torch.ones(()))
    yield "unique", lambda x: x.unique()
    yield "equal", lambda x: torch.equal(x, x)


@pytest.mark.parametrize(("name", "read"), reads(), ids=[name for name, _ in reads()])
def test_what_waits_for_a_device_is_counted(name: str, read: Callable[[Tensor], object]) -> None:
    x = torch.arange(3.0)
    with StepCounter("cpu") as counter:
        x = x + 1
    assert not counter.reads
    assert counter.total == 1
    with counter:
        read(x)
    assert counter.reads.total() > 0, name


def test_what_happens_elsewhere_is_not_counted() -> None:
    with StepCounter("meta") as counter:
        float(torch.arange(3.0).sum())
        torch.ones(3).to("meta") + torch.empty(3, device="meta")
    assert not counter.reads
    assert counter.kernels == {"aten._to_copy.default": 1, "aten.add.Tensor": 1}
