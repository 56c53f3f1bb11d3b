"""A ConvNeXt in the shared loop: several processes train as one, a killed run continues, units are sharded."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from dinomill.models.convnext import ConvNeXt
from dinomill.storage.hashing import hash_file
from dinomill.training.compilation import compile_blocks
from dinomill.training.engine import Engine, build_module
from dinomill.training.job import TrainingJob
from dinomill.training.optimizer import build_optimizer
from dinomill.training.parallel import world
from dinomill.training.trainer import train
from tests.training.test_engine import HERE
from tests.training.test_parallel import finished, losses

MakeJob = Callable[..., TrainingJob]
StartWorker = Callable[..., "subprocess.Popen[str]"]
CONVNEXT = {"kind": "convnext", "in_channels": 1, "stem": 2, "dims": [8, 16], "depths": [1, 2], "layerscale": 1.0}


@pytest.fixture
def teacher(make_job: MakeJob, tmp_path: Path) -> Path:
    job = make_job(work_root=tmp_path / "teacher", recipe={"steps": 1})
    train(job, HERE)
    return job.exported / "student"


@pytest.fixture
def job_for(make_job: MakeJob, teacher: Path) -> MakeJob:
    def make(work: Path, **runtime: Any) -> TrainingJob:
        job = make_job(work_root=work, recipe={"steps": 6}, runtime={"log_every": 1, "checkpoint_every": 3} | runtime)
        # No neighbour in KoLeo: it is sought in a process's own images.
        step: dict[str, Any] = {
            "head": {"hidden_dim": 32, "bottleneck_dim": 16},
            "precision": "fp32",
            "patch_share": 1.0,
        }
        step["losses"] = {"koleo_weight": 0}
        values = job.model_dump(mode="json") | {"stage": "distillation", "step": step, "teacher": str(teacher)}
        values |= {"teacher_sha256": hash_file(teacher / "model.safetensors"), "models": {"conv": CONVNEXT}}
        return TrainingJob.parse(values, where="a test")

    return make


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_two_processes_train_as_one_and_one_continues_for_them(
    job_for: MakeJob, start_worker: StartWorker, tmp_path: Path, kind: str
) -> None:
    alone, job = job_for(tmp_path / "alone"), job_for(tmp_path / "two", parallel={"kind": kind})
    train(alone, HERE)
    finished(start_worker(job, processes=2))
    assert losses(job) == pytest.approx(losses(alone), rel=1e-5)
    expected = load_file(alone.exported / "conv" / "model.safetensors")
    for name, tensor in load_file(job.exported / "conv" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    # The last steps are undone; one process makes them again from the two processes' checkpoint.
    for path in (job.work / "checkpoints" / "step_00000006").iterdir():
        path.unlink()
    (job.work / "checkpoints" / "step_00000006").rmdir()
    single = job_for(tmp_path / "two")
    assert single.work == job.work
    train(single, HERE)
    assert losses(single) == pytest.approx(losses(alone), rel=1e-5)


def test_blocks_are_what_is_sharded_and_compiled(job_for: MakeJob, tmp_path: Path) -> None:
    job = job_for(tmp_path / "one", parallel={"kind": "fsdp2"})
    with world(job.runtime.parallel, "cpu") as here:
        backbone = Engine(job, here).module.student("conv").backbone
        assert isinstance(backbone, ConvNeXt)
        assert all(isinstance(block, FSDPModule) for block in backbone.units())
        assert len(backbone.units()) == 3
    module = build_module(job)
    compile_blocks(module)
    assert all(block._compiled_call_impl is not None for block in module.student("conv").backbone.units())


def test_rates_fall_by_block_and_norms_biases_and_gains_are_not_decayed(job_for: MakeJob, tmp_path: Path) -> None:
    job = job_for(tmp_path / "one")
    module = build_module(job)
    config = job.recipe.optimizer.model_copy(update={"layerwise_decay": 0.5, "patch_embed_multiplier": 0.2})
    groups = build_optimizer(module, config).param_groups
    names = {id(parameter): name for name, parameter in module.student("conv").named_parameters()}
    of = {names[id(p)]: (group["lr_multiplier"], group["wd_multiplier"]) for group in groups for p in group["params"]}
    assert of["backbone.norm.weight"] == (1.0, 0.0)
    assert of["backbone.stages.1.1.pwconv1.weight"] == (0.5, 1.0)
    assert of["backbone.stages.1.0.dwconv.weight"] == (0.25, 1.0)
    assert of["backbone.halvings.0.conv.weight"] == (0.25, 1.0)
    assert of["backbone.halvings.0.norm.weight"] == (0.25, 0.0)
    assert of["backbone.stages.0.0.gamma"] == of["backbone.stages.0.0.pwconv2.bias"] == (0.125, 0.0)
    assert of["backbone.patch_embed.conv.weight"] == pytest.approx((0.0125, 1.0))
    assert of["backbone.patch_embed.norm.weight"][1] == 0.0
    assert len(of) == len(names)
