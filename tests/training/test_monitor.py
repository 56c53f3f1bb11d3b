from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dinomill.handles import DatasetHandle
from dinomill.training.config import MonitorConfig
from dinomill.training.engine import Engine
from dinomill.training.handover import preprocessing
from dinomill.training.health import Reading, State
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen
from dinomill.training.monitor import CollapseError, Monitor, Sets, monitor_sets
from dinomill.training.parallel import World

HERE = World(0, 1, torch.device("cpu"))
MakeJob = Callable[..., TrainingJob]


def never(*_: Any, **__: Any) -> Seen:
    raise AssertionError("nothing is to be looked at")


def idle(tmp_path: Path, config: MonitorConfig, **more: Any) -> Monitor:
    return Monitor(config, never, None, steps=100, folder=tmp_path, world=HERE, **more)


def sets(job: TrainingJob) -> Sets:
    dataset = DatasetHandle.load(job.dataset)
    return monitor_sets(job, dataset, preprocessing(job, dataset), HERE)


def test_due_every_so_often_and_at_the_end_and_a_few_times_before(tmp_path: Path) -> None:
    monitor = idle(tmp_path, MonitorConfig(every=10, early=2))
    assert [step for step in range(36) if monitor.due(step, last=step == 35)] == [0, 2, 5, 10, 20, 30, 35]
    assert not idle(tmp_path, MonitorConfig(every=10, early=0)).due(5, last=False)
    assert not idle(tmp_path, MonitorConfig(every=0)).due(10, last=True)
    assert not any(idle(tmp_path, MonitorConfig(every=0)).due(step, last=False) for step in range(5))


def test_collapse_ends_a_run_only_when_it_lasts_and_is_one_in_absolute_terms(tmp_path: Path) -> None:
    monitor = idle(tmp_path, MonitorConfig(patience=2))
    assert monitor.judge(Reading(0, 20.0, 0.3)).state is State.EARLY
    assert monitor.judge(Reading(20, 1.2, 0.5)).state is State.COLLAPSING
    assert monitor.judge(Reading(30, 20.0, 0.3)).state is State.HEALTHY
    assert monitor.judge(Reading(40, 5.0, 0.3)).state is State.COLLAPSING  # a quarter is left: said, and no more
    assert monitor.judge(Reading(50, 5.0, 0.3)).state is State.COLLAPSING
    assert monitor.judge(Reading(60, 20.0, 0.999)).state is State.COLLAPSING
    with pytest.raises(CollapseError, match="collapsed by step 70") as caught:
        monitor.judge(Reading(70, 1.2, 0.5))
    assert "teacher temperature" in str(caught.value)


def test_collapse_can_be_a_warning_only(tmp_path: Path) -> None:
    monitor = idle(tmp_path, MonitorConfig(patience=1, on_collapse="warn"))
    assert monitor.judge(Reading(50, 1.0, 1.0)).state is State.COLLAPSING


def test_a_continued_run_knows_the_looks_before(tmp_path: Path) -> None:
    past = [Reading(0, 20.0, 0.3), Reading(20, 1.2, 0.5)]
    rows = [{"step": 1, "loss": 3.0}, *({"step": one.step, **one.row(), "verdict": "…"} for one in past)]
    monitor = idle(tmp_path, MonitorConfig(patience=2), past=rows)
    with pytest.raises(CollapseError, match="2 times in a row"):
        monitor.judge(Reading(40, 1.2, 0.5))


def test_all_figures_of_a_real_network_and_the_files_of_a_look(
    make_job: MakeJob, digits_labelled: Path, tmp_path: Path
) -> None:
    job = make_job(labelled=digits_labelled, runtime={"monitor": {"every": 10, "images": 64, "copies": 32}})
    engine = Engine(job, HERE)
    monitor = Monitor(job.runtime.monitor, engine.look, sets(job), steps=12, folder=tmp_path, world=HERE)
    start = monitor.read(0)
    assert start.knn > 0.5  # what the first weights reach, to which all later looks are compared
    monitor.judge(start)
    figures = monitor.read(10).row()
    assert figures.pop("distinct_images") == 64
    assert set(figures) == set(Reading.__dataclass_fields__) - {"step", "distinct_images"}
    for name in ("agreement", "copies_found", "patches_found", "knn"):
        assert 0 <= figures[name] <= 1
    assert figures["knn"] > 0.5  # digits are told apart by pixels
    early = monitor.read(5)
    assert "knn" not in early.row()
    assert early.patch_drift == pytest.approx(0, abs=1e-3)  # nothing was trained
    assert sorted(path.name for path in (tmp_path / "looks").iterdir()) == [
        "colours_00000000.npy",
        "colours_00000005.npy",
        "colours_00000010.npy",
        "look_00000000.jpg",
        "look_00000005.jpg",
        "look_00000010.jpg",
        "step_00000000.npz",
        "step_00000005.npz",
        "step_00000010.npz",
    ]


def test_a_network_that_maps_all_images_to_one_place_is_recognised(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(runtime={"monitor": {"every": 10, "images": 64, "patience": 1}})
    engine = Engine(job, HERE)
    with torch.no_grad():
        backbone = engine.module.average("student").backbone
        backbone.norm.weight.mul_(1e-6)
        backbone.norm.bias.fill_(1.0)
    monitor = Monitor(job.runtime.monitor, engine.look, sets(job), steps=12, folder=tmp_path, world=HERE)
    with pytest.raises(CollapseError):
        monitor.judge(monitor.read(10))


def test_full_disk_costs_a_picture_and_not_the_run(
    make_job: MakeJob, tmp_path: Path, caplog: Any, monkeypatch: Any
) -> None:
    job = make_job(runtime={"monitor": {"every": 10, "images": 32}})
    engine = Engine(job, HERE)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dinomill.storage.atomic.os.fsync", full)
    monitor = Monitor(job.runtime.monitor, engine.look, sets(job), steps=12, folder=tmp_path, world=HERE)
    assert monitor.read(0).effective_rank > 1
    assert "could not be kept" in caplog.text
    assert monitor.picture(0) is None
