"""What a run's folder depends on, what it does not, and what a changed key leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from dinomill.execution.launcher_config import LauncherConfig
from dinomill.handles import DatasetHandle
from dinomill.training.hand_on import run_job
from dinomill.training.handover import is_finished
from dinomill.training.identity import left_behind
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World
from dinomill.training.trainer import train

MakeJob = Callable[..., TrainingJob]
HERE = World(0, 1, torch.device("cpu"))

# No share of the run, which would make the first steps depend on its length.
CONSTANT: dict[str, Any] = {
    "kind": "constant",
    "warmup": 4,
    "frozen_last_layer": 0,
    "teacher_temperature_warmup": 6,
}


def test_a_constant_run_is_prolonged_and_shortened(make_job: MakeJob, tmp_path: Path) -> None:
    def job(steps: int, work: str = "work") -> TrainingJob:
        return make_job(work_root=tmp_path / work, recipe={"steps": steps, "schedule": CONSTANT})

    short, long = job(8), job(16)
    assert short.work == long.work
    train(short, HERE)
    assert is_finished(short)
    assert not is_finished(long)
    train(long, HERE)
    train(job(16, "at once"), HERE)
    at_once = job(16, "at once")
    expected = load_file(at_once.exported / "student" / "model.safetensors")
    found = load_file(long.exported / "student" / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    rows = pq.read_table(long.exported / "student" / "history.parquet").to_pylist()
    assert [row["step"] for row in rows] == [3, 6, 8, 9, 12, 15, 16]
    assert short.result_identity() != long.result_identity()

    shorter = job(12)
    train(shorter, HERE)
    assert json.loads((shorter.exported / "summary.json").read_text())["step"] == 12


def test_a_length_that_matters_is_part_of_the_identity(make_job: MakeJob) -> None:
    def work(steps: int, **schedule: Any) -> Path:
        return make_job(recipe={"steps": steps, "schedule": schedule}).work

    assert work(12) != work(16)  # cosine
    assert work(12, **CONSTANT | {"warmup": 0.1}) != work(16, **CONSTANT | {"warmup": 0.1})
    assert work(12, **CONSTANT) == work(16, **CONSTANT)


@pytest.mark.parametrize(
    "change",
    [
        {"step": {"losses": {"keep_mib": 1}}},
        {"step": {"recomputed_blocks": 0.5}},
        {"step": {"compile": False}},
        {"runtime": {"keep": 9, "keep_every": 100, "mirror": "s3://bucket/x", "not_finite": {"in_a_row": 9}}},
    ],
)
def test_knobs_of_memory_and_machine_are_not(make_job: MakeJob, change: dict[str, Any]) -> None:
    assert make_job(**change).work == make_job().work


def test_the_teachers_heads_are(make_job: MakeJob) -> None:
    job = make_job()
    works = {job.model_copy(update={"teacher_heads_sha256": value}).work for value in (None, "a" * 64, "b" * 64)}
    assert len(works) == 3


def test_a_changed_key_names_the_run_that_it_leaves_behind(
    make_job: MakeJob, capfd: pytest.CaptureFixture[str]
) -> None:
    first = make_job()
    train(first, HERE)
    other = make_job(recipe={"optimizer": {"clip_gradient": 1.0}})
    assert left_behind(other.work, other.identity(), finished="exported") is None  # what is finished is not left behind
    for path in sorted(first.exported.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    first.exported.rmdir()
    far = make_job(recipe={"optimizer": {"clip_gradient": 2.0}, "seed": 5})
    far.save()  # one that never came to a checkpoint

    run_job(other, LauncherConfig(), DatasetHandle.load(other.dataset))
    said = capfd.readouterr().err
    assert f"pretraining: run {first.work.name} stopped at step 12 of another configuration" in said
    assert "pretraining.optimizer.clip_gradient 3.0 → 1.0; it stays in" in said
    assert str(first.work) in said
    # The run's own folder holds checkpoints now: there is nothing to say any more.
    assert left_behind(other.work, other.identity(), finished="exported") is None
    # Nor to the next configuration: it was said once, and whoever left it on purpose has heard it.
    third = make_job(recipe={"optimizer": {"clip_gradient": 0.5}})
    assert left_behind(third.work, third.identity(), finished="exported") is None


def test_a_run_is_named_only_where_keys_set_back_would_continue_it(make_job: MakeJob) -> None:
    first = make_job()
    folder = first.work / "checkpoints" / "step_00000004"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"step": 4, "job": first.identity()}))

    def said(**changes: Any) -> bool:
        job = make_job(**changes)
        return left_behind(job.work, job.identity(), finished="exported") is not None

    assert said(recipe={"seed": 5})
    assert not said(dataset_sha256="f" * 64)  # other images: no key brings them back
    optimizer = {"clip_gradient": 1.0, "epsilon": 1e-6, "layerwise_decay": 0.8, "patch_embed_multiplier": 0.5}
    assert not said(recipe={"seed": 5, "optimizer": optimizer})  # another experiment
