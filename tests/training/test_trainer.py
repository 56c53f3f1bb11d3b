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

from dinomill.errors import ConfigError
from dinomill.models import load
from dinomill.training.engine import Engine
from dinomill.training.job import TrainingJob
from dinomill.training.monitor import CollapseError, DivergedError
from dinomill.training.parallel import World
from dinomill.training.trainer import stop_signals, train

HERE = World(0, 1, torch.device("cpu"))
MakeJob = Callable[..., TrainingJob]
StartWorker = Callable[..., "subprocess.Popen[str]"]

# What depends on the clock or the machine and not on the arithmetic.
MEASURED = {"images_per_second", "data_wait", "memory_gb"}


def curve(job: TrainingJob) -> list[dict[str, Any]]:
    rows = pq.read_table(job.exported / "student" / "history.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def weights(job: TrainingJob, student: str = "student") -> dict[str, torch.Tensor]:
    return load_file(job.exported / student / "model.safetensors")


def finished(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return errors


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_trains_and_exports_a_backbone_that_loads(make_job: MakeJob, digits_labelled: Path) -> None:
    job = make_job(labelled=digits_labelled, runtime={"monitor": {"every": 6, "images": 64}})
    train(job, HERE)
    rows = curve(job)
    assert [row["step"] for row in rows] == [0, 1, 3, 3, 6, 6, 9, 12, 12]
    assert [row["images"] for row in rows if row["loss"] is not None] == [48, 96, 144, 192]
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    assert losses[-1] < losses[0]
    looks = [row for row in rows if row["knn"] is not None]
    assert [row["step"] for row in looks] == [0, 6, 12]  # the early ones do without labels
    assert all(0 < row["knn"] <= 1 and row["effective_rank"] > 1 for row in looks)
    assert [row["verdict"] is not None for row in rows] == [row["effective_rank"] is not None for row in rows]
    pictures = sorted(path.name for path in (job.exported / "student").glob("look_*.jpg"))
    assert pictures == ["look_00000000.jpg", "look_00000003.jpg", "look_00000006.jpg", "look_00000012.jpg"]
    model = load(job.exported / "student")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 32)
    section = json.loads((job.exported / "student" / "config.json").read_text())["preprocessing"]
    assert section["image_size"] == 8
    assert len(section["mean"]) == 1


def test_killed_run_continues_exactly(make_job: MakeJob, start_worker: StartWorker, tmp_path: Path) -> None:
    steps = {"steps": 60}  # seconds, so that the signal comes before the end on a busy machine too
    whole = make_job(work_root=tmp_path / "whole", recipe=steps)
    train(whole, HERE)
    killed = make_job(work_root=tmp_path / "killed", recipe=steps, runtime={"loader": {"workers": 2}})
    process = start_worker(killed)
    while not list(killed.work.glob("checkpoints/step_*/meta.json")):  # any of them: older ones are removed
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    errors = finished(start_worker(killed))
    assert "continues after step" in errors
    assert curve(killed) == curve(whole)
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(killed).items())


def test_told_to_stop_it_saves_and_says_how_to_go_on(
    make_job: MakeJob, start_worker: StartWorker, tmp_path: Path
) -> None:
    # No checkpoint but the one that the signal causes; no row of the curve falls on that step.
    changes = {"recipe": {"steps": 300}, "runtime": {"checkpoint_every": 1000, "log_every": 7}}
    job = make_job(work_root=tmp_path / "stopped", **changes)
    process = start_worker(job)
    wait_for(job.work / "history.jsonl", process)
    while not (job.work / "history.jsonl").read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "was stopped after step" in errors
    assert "run the same command again" in errors
    finished(start_worker(job))
    whole = make_job(work_root=tmp_path / "whole", **changes)
    train(whole, HERE)
    assert curve(job) == curve(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_noted_and_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stop:
        seen = [stop.requested]
        signal.raise_signal(number)
        assert [*seen, stop.requested] == [False, True]
    assert signal.getsignal(number) is before


def test_changed_job_is_refused_with_the_key_and_compatible_changes_are_not(make_job: MakeJob, tmp_path: Path) -> None:
    first = make_job()
    train(first, HERE)
    other = make_job(recipe={"schedule": {"learning_rate": 1e-2}})
    assert other.work != first.work
    other.work.mkdir(parents=True)
    (first.work / "checkpoints").rename(other.work / "checkpoints")
    with pytest.raises(ConfigError, match=r"recipe\.schedule\.learning_rate: 0\.004 in the checkpoint, 0\.01 now"):
        train(other, HERE)
    (other.work / "checkpoints").rename(first.work / "checkpoints")
    changed = make_job(runtime={"log_every": 1, "loader": {"workers": 2}, "keep": 5}, step={"compile": False})
    assert changed.work == first.work
    train(changed, HERE)


def test_finished_run_exports_again_without_training(make_job: MakeJob) -> None:
    job = make_job()
    train(job, HERE)
    before, rows = weights(job), curve(job)
    for path in sorted(job.exported.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    job.exported.rmdir()
    train(job, HERE)
    assert curve(job) == rows
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(job).items())


def test_best_weights_are_kept_and_exported(make_job: MakeJob, digits_labelled: Path) -> None:
    changes = {"every": 2, "images": 64}
    job = make_job(labelled=digits_labelled, runtime={"export": "best", "keep": 1, "monitor": changes})
    train(job, HERE)
    best = json.loads((job.work / "checkpoints" / "best.json").read_text())
    looks = {row["step"]: row["knn"] for row in curve(job) if row["knn"] is not None}
    assert best["measure"] == "knn"
    assert best["value"] == max(looks.values()) == looks[best["step"]]
    assert json.loads((job.exported / "summary.json").read_text())["step"] == best["step"]
    assert (job.work / "checkpoints" / f"step_{best['step']:08d}").exists()


def test_loss_that_is_no_number_ends_with_a_verdict(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    # A weight is poisoned after step 5, as a diverging update would.
    job = make_job()
    original = Engine.step

    def poisoned(self: Engine, step: int, batches: Any) -> dict[str, torch.Tensor]:
        if step == 5:
            with torch.no_grad():
                self.module.student("student").backbone.norm.weight.fill_(torch.nan)
        return original(self, step, batches)

    monkeypatch.setattr(Engine, "step", poisoned)
    with pytest.raises(DivergedError) as caught:
        train(job, HERE)
    text = str(caught.value)
    assert "diverged at step 6" in text
    assert "'dino_local' is nan" in text
    assert "one step before: dino_local" in text
    assert "learning rate" in text
    assert [path.name for path in sorted((job.work / "checkpoints").glob("step_*"))] == ["step_00000004"]


def test_collapse_ends_with_a_verdict(make_job: MakeJob) -> None:
    # A threshold that no network reaches: whether a real collapse is told is tested with the monitor.
    job = make_job(runtime={"monitor": {"every": 2, "images": 32, "min_effective_rank": 1000, "patience": 2}})
    with pytest.raises(CollapseError, match="collapsed by step 4"):
        train(job, HERE)


def test_mlflow_gets_the_whole_curve_of_a_continued_run(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinomill import tracking

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ids = []
    for _ in range(2):
        with tracking.open_run("pretraining", tracking_uri=uri) as run:
            for name, value in run.environment().items():
                monkeypatch.setenv(name, value)
            train(make_job(), HERE)
            ids.append(str(run.run_id))
    import mlflow

    client = mlflow.MlflowClient(uri)
    for run_id in ids:
        metrics = client.get_metric_history(run_id, "loss")
        assert [metric.step for metric in metrics] == [3, 6, 9, 12]
        names = set(client.get_run(run_id).data.metrics)
        assert {"dino_local", "ibot", "koleo", "learning_rate", "images_per_second", "data_wait"} <= names
