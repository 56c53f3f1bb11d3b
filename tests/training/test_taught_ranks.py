"""A teacher without heads: two processes are as one, and a distillation that is killed ends with the same bits."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dinomill.training.history import History
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World
from dinomill.training.trainer import train
from tests.training.taught import taught_job, write_teacher

MakeJob = Callable[..., TrainingJob]
StartWorker = Callable[..., "subprocess.Popen[str]"]
HERE = World(0, 1, torch.device("cpu"))
# Masks play no part in a distillation, but each process draws its own.
ALIKE: dict[str, Any] = {"recipe": {"steps": 20}, "runtime": {"log_every": 1, "checkpoint_every": 5}}


def losses(job: TrainingJob) -> list[float]:
    rows = History(job.work / "history.jsonl", steps=1000, writes=False).rows
    return [row["loss"] for row in rows if "loss" in row]


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    folder = job.exported / "student"
    return load_file(folder / "model.safetensors") | load_file(folder / "heads.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("objective", "cached"), [("clusters", False), ("regression", False), ("regression", True), ("whitened", False)]
)
def test_two_processes_are_as_one(
    make_job: MakeJob, start_worker: StartWorker, tmp_path: Path, objective: str, cached: bool, kind: str
) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    jobs = []
    for name, changes in (("alone", {}), ("two", {"runtime": {**ALIKE["runtime"], "parallel": {"kind": kind}}})):
        cache = tmp_path / f"cache-{name}" if cached else None
        given = {**ALIKE, **changes, "work_root": tmp_path / name}
        jobs.append(taught_job(make_job, teacher, objective, cache=cache, **given))
    alone, two = jobs
    train(alone, HERE)
    process = start_worker(two, processes=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert losses(two) == pytest.approx(losses(alone), rel=1e-4)
    expected = weights(alone)
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "cached"), [("clusters", False), ("regression", True)])
def test_killed_and_started_again_it_ends_with_the_same_bits(
    make_job: MakeJob, start_worker: StartWorker, tmp_path: Path, objective: str, cached: bool
) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    whole, killed = (
        taught_job(
            make_job,
            teacher,
            objective,
            cache=tmp_path / f"cache-{name}" if cached else None,
            **ALIKE,
            work_root=tmp_path / name,
        )
        for name in ("whole", "killed")
    )
    process = start_worker(whole)
    assert process.wait(300) == 0
    for step in (0, 6, 13):  # before the first step (while the teacher is looked at), and twice on the way
        process = start_worker(killed)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            made = (killed.work / "job.json").is_file() if step == 0 else len(losses(killed)) >= step
            if made and (step or any(killed.work.iterdir())):
                break
            time.sleep(0.02)
        if step == 0:
            time.sleep(2.0)
        process.kill()
        process.wait()
    process = start_worker(killed)
    assert process.wait(300) == 0
    expected = weights(whole)
    for name, tensor in weights(killed).items():
        assert torch.equal(tensor, expected[name]), name
