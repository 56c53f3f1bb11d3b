from __future__ import annotations

import json
import math
import shutil
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

from dinomill.errors import ConfigError, InputError
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import read_kept
from dinomill.models import load
from dinomill.training.engine import Engine
from dinomill.training.handover import is_finished
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.monitor import CollapseError
from dinomill.training.not_finite import DivergedError
from dinomill.training.parallel import World
from dinomill.training.trainer import stop_signals, train

HERE = World(0, 1, torch.device("cpu"))
MakeJob = Callable[..., TrainingJob]
StartWorker = Callable[..., "subprocess.Popen[str]"]

# What depends on the clock or the machine and not on the arithmetic.
MEASURED = {"images_per_second", "data_wait", "memory_gb", "cpu_percent", "host_memory_percent"}


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
    assert [row["step"] for row in looks] == [0, 6, 12]  # what random weights reach, too; early ones do without labels
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
    looks = {
        row["step"]: row["knn"] for row in curve(job) if row["step"] and row["knn"] is not None
    }  # 0: of no weights
    assert best["measure"] == "knn"
    assert best["value"] == max(looks.values()) == looks[best["step"]]
    assert json.loads((job.exported / "summary.json").read_text())["step"] == best["step"]
    assert (job.work / "checkpoints" / f"step_{best['step']:08d}").exists()


def poison(monkeypatch: pytest.MonkeyPatch, when: Callable[[int, Any], bool]) -> None:
    """Batches get a pixel that is no number where `when(step, images' rows)` says so."""
    original = Engine.step

    def poisoned(self: Engine, step: int, batches: Any) -> dict[str, torch.Tensor]:
        for batch in batches:
            if when(step, batch.indices.tolist()):
                batch.global_crops[0, 0, 0, 0] = torch.nan
        return original(self, step, batches)

    monkeypatch.setattr(Engine, "step", poisoned)


def test_a_bad_batch_is_left_out_counted_and_its_images_named(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job()
    poison(monkeypatch, lambda step, rows: step == 5)
    train(job, HERE)
    rows = curve(job)
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0]
    assert all(math.isfinite(value) for row in rows for value in row.values() if value is not None)
    (line,) = (job.work / "not_finite.jsonl").read_text().splitlines()
    named = json.loads(line)
    assert named["step"] == 6
    assert named["diagnosis"] == "the loss term 'dino_local' is nan"
    handle = DatasetHandle.load(job.dataset)
    with build_loader(job, handle, HERE, start_step=5) as loader:
        batch = next(iter(loader))
    paths = read_kept(handle.manifest).paths
    assert named["images"] == [str(paths[row]) for row in batch.indices.tolist()]
    assert "The update of step 6 was left out: the loss term 'dino_local' is nan" in caplog.text
    assert named["images"][0] in caplog.text
    assert all(torch.isfinite(tensor).all() for tensor in weights(job).values())


def test_several_bad_batches_in_a_row_are_gone_around(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    # The images that the usual order brings at steps 6 to 8 are bad, wherever two of them meet.
    policy = {"in_a_row": 3, "rate_factor": 0.5}
    job = make_job(runtime={"not_finite": policy, "log_every": 1}, recipe={"steps": 16})
    handle = DatasetHandle.load(job.dataset)
    with build_loader(job, handle, HERE, start_step=5) as loader:
        batches = iter(loader)
        bad = {row for _ in range(3) for row in next(batches).indices.tolist()}
    poison(monkeypatch, lambda step, rows: len(bad & set(rows)) > 8)
    train(job, HERE)
    assert "3 steps in a row were left out from step 6 on" in caplog.text
    assert "back to step 4, with another order of the images and 0.5 of the learning rate" in caplog.text
    (detour,) = json.loads((job.work / "detours.json").read_text())
    assert detour == {"begins": 4, "failed": 6, "order": 1, "rate": 0.5}
    rows = curve(job)
    assert [row["step"] for row in rows] == list(range(1, 17))
    assert sum(row["skipped"] for row in rows) == 0
    plain = make_job(work_root=tmp_path / "plain", runtime={"log_every": 1}, recipe={"steps": 16})
    monkeypatch.undo()
    train(plain, HERE)
    for row, usual in zip(rows, curve(plain), strict=True):
        factor = 1 if row["step"] <= 4 else 0.5
        assert row["learning_rate"] == pytest.approx(factor * usual["learning_rate"])
        assert (row["loss"] == usual["loss"]) == (row["step"] <= 4)

    # Killed on the detour, and started again: it is taken again.
    shutil.rmtree(job.work / "checkpoints" / "step_00000016")
    shutil.rmtree(job.exported)
    train(job, HERE)
    assert curve(job) == rows


def test_what_cannot_be_gone_around_ends_with_a_diagnosis(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    # A weight is poisoned after step 5, as a diverging update would.
    job = make_job(runtime={"not_finite": {"in_a_row": 2, "returns": 1}})
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
    assert "diverged at step 6: the loss term 'dino_local' is nan" in text
    assert "after 1 returns to step 4 with other orders of the images" in text
    assert "weights that are not finite: the student's backbone" in text
    assert "pretraining.schedule.learning_rate" in text
    assert "a smaller pretraining.optimizer.clip_gradient (now 3)" in text
    assert "the checkpoint of step 4 is kept" in text
    assert [path.name for path in sorted((job.work / "checkpoints").glob("step_*"))] == ["step_00000004"]


def test_bad_from_the_first_step_goes_back_to_the_beginning(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(recipe={"optimizer": {"clip_gradient": 0}}, runtime={"not_finite": {"in_a_row": 1, "returns": 1}})
    poison(monkeypatch, lambda step, rows: step == 1)
    with pytest.raises(DivergedError, match="diverged at step 2") as caught:
        train(job, HERE)
    assert "after 1 returns to step 0" in str(caught.value)
    # What is advised can be done, and what is said to be there is.
    assert "a smaller" not in str(caught.value) and "now 0, which is off" in str(caught.value)
    assert "there is no checkpoint before them yet" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": "x"}', "{}"])
def test_a_damaged_summary_is_written_again(make_job: MakeJob, content: str, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job(recipe={"steps": 4})
    train(job, HERE)
    path = job.exported / "summary.json"
    before = json.loads(path.read_text())
    path.write_text(content)
    assert not is_finished(job)
    assert "summary.json is damaged" in caplog.text
    train(job, HERE)
    assert is_finished(job) and json.loads(path.read_text()) == before


def test_it_goes_back_to_a_checkpoint_that_is_sound_and_not_beyond_the_end(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one of step 12 is damaged: what goes wrong after the one before is counted from there, and ends.
    job = make_job(runtime={"not_finite": {"in_a_row": 1, "returns": 1}})
    train(job, HERE)
    shutil.rmtree(job.exported)
    (job.work / "checkpoints" / "step_00000012" / "part_00000.safetensors").write_bytes(b"")
    poison(monkeypatch, lambda step, rows: step == 9)
    with pytest.raises(DivergedError, match="after 1 returns to step 8 with other orders"):
        train(job, HERE)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"begins": 4}]', "7"])
def test_a_damaged_list_of_detours_is_named(make_job: MakeJob, content: str) -> None:
    job = make_job()
    job.work.mkdir(parents=True)
    (job.work / "detours.json").write_text(content)
    with pytest.raises(InputError, match=r"detours\.json is not what was written") as caught:
        train(job, HERE)
    assert "remove it" in str(caught.value)


def test_made_shorter_and_as_long_again_it_has_its_whole_curve(make_job: MakeJob) -> None:
    schedule = {"kind": "constant", "warmup": 2, "frozen_last_layer": 1, "teacher_temperature_warmup": 3}
    long, short = (make_job(recipe={"steps": steps, "schedule": schedule}) for steps in (9, 6))
    assert long.work == short.work
    train(long, HERE)
    before, expected = curve(long), weights(long)
    train(short, HERE)
    assert max(row["step"] for row in curve(short)) == 6
    train(long, HERE)
    assert curve(long) == before
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(long).items())


def test_losses_that_are_all_off_are_refused(make_job: MakeJob) -> None:
    off = {"dino_weight": 0, "ibot_weight": 0, "koleo_weight": 0}
    with pytest.raises(ConfigError, match="nothing is learnt"):
        make_job(step={"losses": off})
    make_job(step={"losses": {**off, "sigreg": {"invariance": 1}}})


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
