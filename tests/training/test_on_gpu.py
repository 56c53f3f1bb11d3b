"""What only a GPU can show; `make gpu-check` runs these there, elsewhere they are skipped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dinomill.handles import DatasetHandle
from dinomill.training.engine import Engine
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.loss_scaler import LossScaler
from dinomill.training.parallel import World
from dinomill.training.precision import set_deterministic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
MakeJob = Callable[..., TrainingJob]
GPU = World(0, 1, torch.device("cuda", 0))
HOST = World(0, 1, torch.device("cpu"))


def curve(job: TrainingJob, dataset: DatasetHandle, world: World) -> list[dict[str, float]]:
    """The losses and norms of a whole run."""
    engine = Engine(job, world)
    if engine.scaler is not None:
        # A scale at which nothing overflows (so small a head begins with gradients of 2,000): a step that is left out
        # would shift the curve.
        engine.scaler = LossScaler(4.0, device=world.device)
    with build_loader(job, dataset, world, start_step=0) as loader:
        rows = [engine.step(step, [batch]) for step, batch in enumerate(loader)]
    return [{name: float(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "softmax"])
def test_a_run_is_that_of_a_cpu(make_job: MakeJob, digits_dataset: DatasetHandle, centering: str) -> None:
    # Rendered by the same code on both: what differs is the order of sums.
    changes = {"step": {"centering": {"kind": centering}}, "runtime": {"loader": {"backend": "batched"}}}
    job = make_job(recipe={"steps": 6}, **changes)
    for found, expected in zip(curve(job, digits_dataset, GPU), curve(job, digits_dataset, HOST), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_it_stays_close(make_job: MakeJob, digits_dataset: DatasetHandle, precision: str) -> None:
    exact = curve(make_job(recipe={"steps": 4}), digits_dataset, GPU)
    rounded = curve(make_job(recipe={"steps": 4}, step={"precision": precision}), digits_dataset, GPU)
    assert [row["total"] for row in rounded] == pytest.approx([row["total"] for row in exact], rel=0.03)


def test_deterministic_runs_are_the_same_to_the_last_bit(make_job: MakeJob, digits_dataset: DatasetHandle) -> None:
    job = make_job(recipe={"steps": 6}, step={"precision": "bf16"}, runtime={"deterministic": True})
    try:
        assert curve(job, digits_dataset, GPU) == curve(job, digits_dataset, GPU)
    finally:
        set_deterministic(False)


def test_the_host_never_waits_in_a_step(make_job: MakeJob, digits_dataset: DatasetHandle) -> None:
    job = make_job(recipe={"steps": 4})
    engine = Engine(job, GPU)
    watched = 0
    with build_loader(job, digits_dataset, GPU, start_step=0) as loader:
        for step, batch in enumerate(loader):
            if step >= 2:  # the first steps make what is kept
                torch.cuda.set_sync_debug_mode("error")
                watched += 1
            try:
                engine.step(step, [batch])
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert watched == 2
