"""Heads first, then the backbone; low-rank additions; micro-batches; scaled half precision."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle
from dinomill.models import VisionTransformer, load, save_backbone
from dinomill.training.config import AdaptationConfig, LoraConfig
from dinomill.training.engine import Engine, build_module
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.lora import add_lora
from dinomill.training.loss_scaler import LossScaler
from dinomill.training.parallel import World
from dinomill.training.schedules import ScheduleConfig, Schedules
from dinomill.training.trainer import grouped, train

HERE = World(0, 1, torch.device("cpu"))
MakeJob = Callable[..., TrainingJob]
StartWorker = Callable[..., "subprocess.Popen[str]"]
MEASURED = {"images_per_second", "data_wait", "memory_gb", "cpu_percent", "host_memory_percent"}


@pytest.fixture
def start(make_job: MakeJob, tmp_path: Path) -> Path:
    torch.manual_seed(5)
    save_backbone(tmp_path / "start", VisionTransformer(make_job().models["student"]))
    return tmp_path / "start"


@pytest.fixture
def adapting(make_job: MakeJob, start: Path) -> MakeJob:
    def make(adaptation: dict[str, Any] | None = None, **changes: Any) -> TrainingJob:
        known = {"initial": start, "initial_sha256": "0" * 64, "mean": [0.5], "std": [0.25]}
        return make_job(**known, adaptation={"frozen": 4, "ramp": 4, **(adaptation or {})}, **changes)

    return make


def batches_of(job: TrainingJob, steps: int) -> list[list[Any]]:
    loader = build_loader(job, DatasetHandle.load(job.dataset), HERE, start_step=0)
    with loader:
        found = grouped(loader, job.recipe.accumulate)
        return [next(found) for _ in range(steps)]


def curve(job: TrainingJob) -> list[dict[str, Any]]:
    rows = pq.read_table(job.exported / "student" / "history.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_file(job.exported / "student" / "model.safetensors")


def test_the_backbones_rate_is_zero_then_rises() -> None:
    adaptation = AdaptationConfig(frozen=0.2, ramp=5, backbone_rate=0.5)
    schedules = Schedules(ScheduleConfig(), steps=20, batch=64, adaptation=adaptation)
    rates = [schedules.at(step).backbone_rate for step in range(20)]
    assert rates == pytest.approx([0.0] * 4 + [0.1, 0.2, 0.3, 0.4] + [0.5] * 12)
    assert [schedules.at(step).frozen for step in (3, 4)] == [True, False]
    assert Schedules(ScheduleConfig(), steps=20, batch=64).at(0).backbone_rate is None
    with pytest.raises(ConfigError, match=r"adaptation\.frozen"):
        Schedules(ScheduleConfig(), steps=20, batch=64, adaptation=AdaptationConfig(frozen=30))


def test_heads_learn_first_and_the_teacher_stays_what_it_was(adapting: MakeJob, start: Path) -> None:
    job = adapting()
    engine = Engine(job, HERE)
    student, teacher = engine.module.student("student"), engine.module.teacher
    begun = load(start).state_dict()
    heads = [p.clone() for p in student.dino_head.parameters()]
    found = batches_of(job, 8)
    for step in range(4):
        terms = engine.step(step, found[step])
        assert "gradient_norm/backbone" not in terms
        for network in (student.backbone, teacher.backbone):
            assert all(torch.equal(begun[name], tensor) for name, tensor in network.state_dict().items())
    assert not all(torch.equal(a, b) for a, b in zip(heads, student.dino_head.parameters(), strict=True))
    moved = []
    for step in range(4, 8):
        before = student.backbone.norm.weight.detach().clone()
        assert "gradient_norm/backbone" in engine.step(step, found[step])
        moved.append(float((student.backbone.norm.weight.detach() - before).abs().max()))
    assert all(change > 0 for change in moved)
    assert not torch.equal(begun["norm.weight"], teacher.backbone.norm.weight)


def test_a_frozen_step_costs_less_than_two_thirds(adapting: MakeJob) -> None:
    # Wide enough for the backbone to outweigh the heads, as it does in every real model.
    job = adapting(models={"student": {"embed_dim": 32, "depth": 2}}, step={"drop_path": 0})
    engine = Engine(job, HERE)
    found = batches_of(job, 5)
    flops = []
    for step in (0, 4):
        with FlopCounterMode(display=False) as counter:
            engine.step(step, found[step])
        flops.append(counter.get_total_flops())
    assert flops[0] < 0.67 * flops[1]


def test_a_rate_of_one_without_freezing_is_plain_training(adapting: MakeJob, make_job: MakeJob, start: Path) -> None:
    same = adapting({"frozen": 0, "ramp": 0, "backbone_rate": 1.0}, recipe={"steps": 6})
    known = {"initial": start, "initial_sha256": "0" * 64, "mean": [0.5], "std": [0.25]}
    plain = make_job(**known, recipe={"steps": 6})
    assert same.work != plain.work
    for job in (same, plain):
        train(job, HERE)
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(same).items())


def test_what_is_off_leaves_the_folder_where_it_was(make_job: MakeJob) -> None:
    identity = make_job().identity()
    assert set(identity) == {"recipe", "models", "dataset_sha256", "teacher_sha256", "initial_sha256", "step"}
    assert "accumulate" not in identity["recipe"]
    assert set(identity["step"]["centering"]) == {"kind", "iterations", "center_momentum"}
    assert make_job(recipe={"accumulate": 2}).work != make_job().work


def test_additions_alone_are_trained_and_the_export_is_plain(adapting: MakeJob, start: Path) -> None:
    job = adapting({"lora": {"rank": 2, "alpha": 4}, "frozen": 2, "ramp": 2, "backbone_rate": 1.0})
    module = build_module(job)
    backbone = module.student("student").backbone
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 4 * 2  # two thin matrices for four projections in two blocks
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(backbone(images), load(start).train()(images))  # nothing is added at first

    train(job, HERE)
    begun, after = load_file(start / "model.safetensors"), weights(job)
    changed = {name for name in begun if not torch.equal(begun[name], after[name])}
    assert changed == {
        f"blocks.{block}.{layer}.weight"
        for block in (0, 1)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - begun[name], rtol=1e-3) <= 2 * 8  # an average of 8 steps' sums


@pytest.mark.parametrize("training", [True, False])
def test_every_way_of_running_a_block_computes_with_the_sum(make_job: MakeJob, training: bool) -> None:
    torch.manual_seed(0)
    backbone = VisionTransformer(make_job().models["student"])
    plain = VisionTransformer(backbone.config)
    plain.load_state_dict(backbone.state_dict())
    add_lora(backbone, LoraConfig(rank=2))
    with torch.no_grad():
        for block, other in zip(backbone.blocks, plain.blocks, strict=True):
            torch.nn.init.normal_(block.attn.qkv.parametrizations.weight[0].b)
            other.attn.qkv.weight.copy_(block.attn.qkv.weight)
    images = torch.rand(3, 1, 8, 8)
    for network in (backbone, plain):
        network.train(training)
    torch.testing.assert_close(backbone(images), plain(images))
    backbone(images).sum().backward()
    assert backbone.blocks[0].attn.qkv.parametrizations.weight[0].a.grad is not None
    assert backbone.blocks[0].attn.qkv.parametrizations.weight.original.grad is None


def test_sharded_additions_are_refused(adapting: MakeJob) -> None:
    with pytest.raises(ConfigError, match="ddp"):
        Engine(adapting({"lora": {}}, runtime={"parallel": {"kind": "fsdp2"}}), HERE)


# What one batch and its halves do alike: KoLeo looks within a micro-batch, masks are drawn for each.
ALIKE: dict[str, Any] = {
    "recipe": {"masking": {"fraction": 0}, "steps": 6},
    "step": {"drop_path": 0, "losses": {"koleo_weight": 0, "ibot_weight": 0}},
    "runtime": {"log_every": 1},
}


@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "softmax"])
def test_micro_batches_make_the_step_of_one_large_batch(make_job: MakeJob, tmp_path: Path, centering: str) -> None:
    step = ALIKE["step"] | {"centering": {"kind": centering}}
    found = []
    for count in (1, 4):
        recipe = ALIKE["recipe"] | {"accumulate": count}
        job = make_job(work_root=tmp_path / f"{count}", **(ALIKE | {"recipe": recipe, "step": step}))
        train(job, HERE)
        found.append(job)
    whole, parts = found
    losses = [[row["loss"] for row in curve(job)] for job in found]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, tensor in weights(parts).items():
        torch.testing.assert_close(tensor, weights(whole)[name], rtol=1e-4, atol=1e-5)
    rows = [[batch.indices for batch in group] for group in batches_of(parts, 3)]
    plain = [group[0].indices for group in batches_of(whole, 3)]
    assert all(torch.equal(torch.cat(group), one) for group, one in zip(rows, plain, strict=True))


def test_targets_of_each_micro_batch_alone_are_others(make_job: MakeJob, tmp_path: Path) -> None:
    recipe = ALIKE["recipe"] | {"accumulate": 4}
    losses = []
    for over in ("step", "micro_batch"):
        step = ALIKE["step"] | {"centering": {"over": over}}
        job = make_job(work_root=tmp_path / over, **(ALIKE | {"recipe": recipe, "step": step}))
        train(job, HERE)
        losses.append(curve(job)[0]["loss"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_a_batch_that_is_no_multiple_of_its_parts_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"2 processes times 3 micro-batches"):
        make_job(recipe={"accumulate": 3}).batch_per_process(2)


def test_killed_while_adapting_it_continues_exactly(
    adapting: MakeJob, start_worker: StartWorker, tmp_path: Path
) -> None:
    adaptation = {"frozen": 30, "ramp": 0.3, "lora": {"rank": 2}, "backbone_rate": 1.0}
    recipe = {"steps": 60, "accumulate": 2}
    whole = adapting(adaptation, work_root=tmp_path / "whole", recipe=recipe)
    train(whole, HERE)
    killed = adapting(adaptation, work_root=tmp_path / "killed", recipe=recipe)
    process = start_worker(killed)
    while not list(killed.work.glob("checkpoints/step_*/meta.json")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    again = start_worker(killed)
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "continues after step" in errors
    assert curve(killed) == curve(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(killed).items())


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_two_processes_adapt_as_one(adapting: MakeJob, start_worker: StartWorker, tmp_path: Path, kind: str) -> None:
    recipe = ALIKE["recipe"] | {"accumulate": 2}
    changes = ALIKE | {"recipe": recipe}
    alone = adapting({"frozen": 2, "ramp": 2}, work_root=tmp_path / "alone", **changes)
    train(alone, HERE)
    runtime = {"log_every": 1, "parallel": {"kind": kind}}
    job = adapting({"frozen": 2, "ramp": 2}, work_root=tmp_path / "two", **(changes | {"runtime": runtime}))
    process = start_worker(job, processes=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    losses = [[row["loss"] for row in curve(one)] for one in (alone, job)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, tensor in weights(job).items():
        torch.testing.assert_close(tensor, weights(alone)[name], rtol=1e-4, atol=1e-5)


def test_the_scale_falls_with_an_overflow_and_rises_after_a_while() -> None:
    scaler = LossScaler(scale=8.0, growth_interval=3)
    gradients = [torch.tensor([8.0, 16.0]), torch.tensor([4.0])]
    scaler.unscale(gradients)
    assert [g.tolist() for g in gradients] == [[1.0, 2.0], [0.5]]
    made, skipped = torch.tensor(False), torch.tensor(True)
    for step in (made, made, skipped):
        scaler.follow(step)
    assert scaler.state() == {"scale": 4.0, "good": 0, "skipped": 1}
    for _ in range(3):
        scaler.follow(made)
    assert scaler.scale == 8.0
    other = LossScaler()
    other.load(json.loads(json.dumps(scaler.state())))
    assert other.state() == scaler.state()
    for _ in range(4):
        scaler.follow(skipped)
    assert scaler.exhausted


def test_half_precision_trains_with_a_scaled_loss_and_continues_exactly(make_job: MakeJob, tmp_path: Path) -> None:
    recipe = {"steps": 16}
    changes: dict[str, Any] = {"step": {"precision": "fp16"}, "runtime": {"log_every": 1}, "recipe": recipe}
    job = make_job(work_root=tmp_path / "whole", **changes)
    train(job, HERE)
    plain = make_job(work_root=tmp_path / "plain", runtime={"log_every": 1}, recipe=recipe)
    train(plain, HERE)
    rows, expected = curve(job), curve(plain)
    assert rows[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.01)
    # Gradients are unscaled before they are clipped and reported.
    made = next(index for index, row in enumerate(rows) if row["skipped"] == 0)
    norm = "gradient_norm/backbone"
    assert rows[made][norm] == pytest.approx(expected[0][norm], rel=0.2)
    skipped = [row["skipped"] for row in rows]
    # The scale begins too large for this model and halves until it fits: some steps are left out, then none.
    assert skipped == sorted(skipped, reverse=True)
    assert 0 < sum(skipped) < 10
    meta = json.loads((job.work / "checkpoints" / "step_00000012" / "meta.json").read_text())
    assert meta["extra"]["scaler"]["skipped"] == sum(skipped[:12])

    # The last steps are made again from the checkpoint at step 12, scale and all.
    import shutil

    first = weights(job)
    shutil.rmtree(job.work / "checkpoints" / "step_00000016")
    shutil.rmtree(job.exported)
    train(job, HERE)
    assert curve(job) == rows
    assert all(torch.equal(tensor, first[name]) for name, tensor in weights(job).items())


def test_an_overflow_leaves_the_step_out_and_what_never_ends_is_a_divergence(make_job: MakeJob) -> None:
    job = make_job(step={"precision": "fp16"})
    engine = Engine(job, HERE)
    assert engine.scaler is not None
    engine.scaler.load({"scale": 2.0**40, "good": 0, "skipped": 0})  # more than fp16 holds, so that gradients overflow
    (batches,) = batches_of(job, 1)
    before = [p.clone() for p in engine.module.parameters()]
    terms = engine.step(6, batches)
    assert terms["skipped"] == 1
    assert engine.scaler.state() == {"scale": 2.0**39, "good": 0, "skipped": 1}
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.equal(a, b) for a, b in zip(before, engine.module.parameters(), strict=True))

    with torch.no_grad():
        engine.module.student("student").backbone.norm.weight.fill_(torch.nan)
    engine.scaler.load({"scale": 0.5, "good": 0, "skipped": 13})
    from dinomill.training.history import Recorder

    recorder = Recorder()
    recorder.add(engine.step(7, batches))
    assert [step.step for step in recorder.read(HERE, 8)] == [8]
