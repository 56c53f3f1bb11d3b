from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from dinomill.errors import ConfigError, MachineError
from dinomill.training import parallel
from dinomill.training.config import ParallelConfig
from dinomill.training.engine import Engine, build_module
from dinomill.training.history import History
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World, parallelise, world
from dinomill.training.trainer import train

MakeJob = Callable[..., TrainingJob]
StartWorker = Callable[..., "subprocess.Popen[str]"]
HERE = World(0, 1, torch.device("cpu"))

# What a batch of 16 and two of 8 do alike: no stochastic depth; no mask, which is drawn for each process; no neighbour
# in KoLeo, which is sought in a process's own images.
ALIKE: dict[str, Any] = {
    "recipe": {"masking": {"fraction": 0}, "steps": 8},
    "step": {"drop_path": 0, "losses": {"koleo_weight": 0, "ibot_weight": 0}},
    "runtime": {"log_every": 1},
}


def losses(job: TrainingJob) -> list[float]:
    rows = History(job.work / "history.jsonl", steps=100, writes=False).rows
    return [row["loss"] for row in rows if "loss" in row]


def finished(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.fixture
def alone(make_job: MakeJob, tmp_path: Path) -> TrainingJob:
    job = make_job(work_root=tmp_path / "alone", **ALIKE)
    train(job, HERE)
    return job


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_two_processes_train_as_one_and_one_continues_for_them(
    make_job: MakeJob, start_worker: StartWorker, alone: TrainingJob, tmp_path: Path, kind: str
) -> None:
    # The monitor embeds in all processes together, between steps and before the last checkpoint.
    monitor = {"every": 4, "images": 31}
    changes = {**ALIKE, "runtime": {"log_every": 1, "parallel": {"kind": kind}, "monitor": monitor}}
    job = make_job(work_root=tmp_path / "two", **changes)
    finished(start_worker(job, processes=2))
    assert losses(job) == pytest.approx(losses(alone), rel=1e-5)
    expected = load_file(alone.exported / "student" / "model.safetensors")
    actual = load_file(job.exported / "student" / "model.safetensors")
    for name, tensor in actual.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)

    # The last step is undone; one process makes it again from the two processes' checkpoint at step 4.
    for path in (job.work / "checkpoints" / "step_00000008").iterdir():
        path.unlink()
    (job.work / "checkpoints" / "step_00000008").rmdir()
    single = make_job(work_root=tmp_path / "two", **ALIKE)
    assert single.work == job.work
    train(single, HERE)
    assert losses(single) == pytest.approx(losses(alone), rel=1e-5)


def test_stopped_together(make_job: MakeJob, start_worker: StartWorker) -> None:
    # Only the launcher of the workers hears the signal here, as when a batch system stops a job.
    import json
    import signal
    import time

    job = make_job(recipe={"steps": 100_000}, runtime={"checkpoint_every": 10**6})
    process = start_worker(job, processes=2)
    while not (job.work / "history.jsonl").exists() or not (job.work / "history.jsonl").read_text():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    rows = [json.loads((job.work / "failures" / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert [row["kind"] for row in rows] == ["Interrupted", "Interrupted"]
    assert rows[0]["problem"] == rows[1]["problem"]
    assert len(list((job.work / "checkpoints").glob("step_*/meta.json"))) == 1


def test_one_process_needs_no_group() -> None:
    with world(ParallelConfig(), "cpu") as here:
        assert (here.rank, here.size, here.is_main) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        assert torch.equal(here.gather(torch.arange(3)), torch.arange(3))


def test_several_processes_need_a_way() -> None:
    with pytest.raises(ConfigError, match="several processes"):
        parallelise(torch.nn.Linear(1, 1), World(0, 2, torch.device("cpu")), ParallelConfig(kind="none"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_said() -> None:
    with pytest.raises(MachineError, match="GPU"), world(ParallelConfig(), "cuda"):
        pass


def test_a_group_of_one_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with world(ParallelConfig(kind="ddp"), "cpu") as here:
        assert torch.distributed.is_initialized()
        assert here.from_main("word") == "word"
    assert dict(os.environ) == before
    assert not torch.distributed.is_initialized()


def test_an_error_of_its_own_is_not_held_up_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    leave, waiting = torch.distributed.destroy_process_group, threading.Event()

    def hangs() -> None:
        waiting.wait(60)
        leave()

    monkeypatch.setattr(torch.distributed, "destroy_process_group", hangs)
    monkeypatch.setattr(parallel, "_LEAVE_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(ConfigError, match="mine"), world(ParallelConfig(kind="ddp"), "cpu"):
        raise ConfigError("mine")
    assert time.monotonic() - start < 30
    waiting.set()
    while torch.distributed.is_initialized():
        time.sleep(0.01)


def test_replicas_that_do_not_divide_the_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="shared evenly"):
        parallelise(torch.nn.Linear(1, 1), World(0, 4, torch.device("cpu")), ParallelConfig(kind="hsdp", replicas=3))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_one_process_starts_from_the_weights_that_the_seed_gives(make_job: MakeJob, kind: str) -> None:
    job = make_job(runtime={"parallel": {"kind": kind}})
    torch.manual_seed(job.recipe.seed)
    expected = build_module(job).state_dict()
    with world(job.runtime.parallel, "cpu") as here:
        actual = Engine(job, here).module.state_dict()
        for name, tensor in actual.items():
            whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            assert torch.equal(whole, expected[name]), name


def test_on_the_meta_device_nothing_is_drawn(make_job: MakeJob) -> None:
    state = torch.random.get_rng_state()
    module = build_module(make_job(), torch.device("meta"))
    assert torch.equal(torch.random.get_rng_state(), state)
    whole = build_module(make_job())
    assert {n: t.shape for n, t in module.state_dict().items()} == {n: t.shape for n, t in whole.state_dict().items()}
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in whole.parameters()]
    assert all(tensor.is_meta for tensor in module.state_dict().values())


@pytest.mark.slow
def test_four_processes_in_two_replicas_train_as_one(
    make_job: MakeJob, start_worker: StartWorker, alone: TrainingJob, tmp_path: Path
) -> None:
    parallel = {"kind": "hsdp", "replicas": 2}
    job = make_job(work_root=tmp_path / "four", **{**ALIKE, "runtime": {"log_every": 1, "parallel": parallel}})
    finished(start_worker(job, processes=4))
    assert losses(job) == pytest.approx(losses(alone), rel=1e-5)
    expected = load_file(alone.exported / "student" / "model.safetensors")
    for name, tensor in load_file(job.exported / "student" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_heads_are_units_of_their_own(make_job: MakeJob) -> None:
    job = make_job(runtime={"parallel": {"kind": "fsdp2"}})
    with world(job.runtime.parallel, "cpu") as here:
        module = Engine(job, here).module
        for network in (module.student("student"), module.teacher):
            assert isinstance(network.dino_head, FSDPModule)
            assert all(isinstance(block, FSDPModule) for block in network.backbone.blocks)
        assert isinstance(module, FSDPModule)
        (own,) = module._get_fsdp_state()._fsdp_param_groups
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        left = [names[id(part.sharded_param)] for part in own.fsdp_params]
        assert left
        assert not [name for name in left if "head" in name or "blocks" in name]
