"""A run's states are true whatever ended it, and the next start of the same work goes on in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from dinomill.errors import InputError, Interrupted
from dinomill.tracking import Run, attach, continue_run, end_for, life, open_run
from dinomill.tracking.connection import connect


@pytest.fixture(autouse=True)
def no_run_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "")  # given back afterwards, whatever is set meanwhile


def read(store: str, run: Run) -> tuple[str, str | None]:
    found = MlflowClient(store).get_run(str(run.run_id))
    return found.info.status, found.data.tags.get("reason")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (InputError("There is no image.", found="none"), "FAILED", "InputError: There is no image."),
        (Interrupted("Stopped after step 3.", action="again"), "KILLED", "Interrupted: Stopped after step 3."),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (ZeroDivisionError("by zero"), "FAILED", "ZeroDivisionError: by zero"),
    ],
)
def test_what_ended_a_run_is_its_state_and_a_tag(store: str, error: BaseException, state: str, reason: str) -> None:
    with pytest.raises(type(error)), open_run("curation", tracking_uri=store) as run:
        raise error
    assert read(store, run) == (state, reason)


def test_a_run_whose_process_was_killed_is_marked_by_the_next_start(store: str) -> None:
    code = (
        "import time; from dinomill.tracking import open_run\n"
        f"with open_run('distillation', tracking_uri='{store}') as run:\n"
        "    print(run.run_id, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    client = MlflowClient(store)
    with open_run("distillation", tracking_uri=store):
        assert client.get_run(run_id).info.status == "RUNNING"  # it is at work
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open_run("evaluation", tracking_uri=store):
        assert client.get_run(run_id).info.status == "RUNNING"  # another stage knows nothing of it
    with open_run("distillation", tracking_uri=store):
        pass
    found = client.get_run(run_id)
    assert found.info.status == "KILLED"
    assert "ended without a word" in found.data.tags["reason"]


def test_an_earlier_run_is_gone_on_in(store: str) -> None:
    with pytest.raises(Interrupted), open_run("pretraining", tracking_uri=store, experiment="one") as first:
        first.log_metrics({"loss": 3.0}, step=1)
        raise Interrupted("Stopped.")
    with open_run("pretraining", tracking_uri=store, experiment="one") as run:
        assert continue_run(str(first.run_id))
        assert run.run_id == first.run_id == os.environ["MLFLOW_RUN_ID"]
        assert MlflowClient(store).get_run(str(run.run_id)).info.status == "RUNNING"
        joined = attach(tracking_uri=store)
        assert joined.last_step("loss") == 1
        assert joined.last_step("nothing") == -1
        joined.log_metrics({"loss": 2.0}, step=2)
        assert not continue_run(str(first.run_id))  # it does already
    assert read(store, first) == ("FINISHED", None)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("one")
    assert [found.info.run_id for found in client.search_runs([experiment.experiment_id])] == [first.run_id]
    assert [point.step for point in client.get_metric_history(str(first.run_id), "loss")] == [1, 2]


def test_a_run_that_the_store_does_not_have_is_no_reason_to_fail(store: str) -> None:
    assert not continue_run("f" * 32)  # nothing is open
    with open_run("pretraining", tracking_uri=store) as run:
        own = run.run_id
        assert not continue_run("f" * 32)
        assert run.run_id == own


def test_metrics_are_written_by_a_thread(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run("pretraining", tracking_uri=store) as run:
        client = connect(store)
        slow, threads = client.log_batch, []

        def log_batch(*arguments: object, **keywords: object) -> None:
            threads.append(threading.current_thread().name)
            time.sleep(0.3)
            slow(*arguments, **keywords)

        monkeypatch.setattr(client, "log_batch", log_batch)
        with Run(client, run.run_id, store, background=True) as joined:
            begun = time.monotonic()
            for step in range(50):
                joined.log_metrics({"loss": float(step)}, step=step)
            assert time.monotonic() - begun < 0.3
        assert set(threads) == {"dinomill-tracking"}
    points = MlflowClient(store).get_metric_history(str(run.run_id), "loss")
    assert sorted(point.step for point in points) == list(range(50))


def test_a_store_that_is_away_delays_nothing(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with open_run("pretraining", tracking_uri=store) as run:
        with Run(connect("http://127.0.0.1:9"), run.run_id, store, background=True) as joined:
            begun = time.monotonic()
            joined.log_metrics({"loss": 1.0}, step=1)
            assert time.monotonic() - begun < 0.2
        assert "Metrics wait to be written" in caplog.text


def test_a_run_that_was_opened_in_vain_does_not_run_for_ever_in_the_bin(store: str) -> None:
    with pytest.raises(Interrupted), open_run("pretraining", tracking_uri=store, experiment="bin") as first:
        raise Interrupted("Stopped.")
    with open_run("pretraining", tracking_uri=store, experiment="bin") as run:
        fresh = str(run.run_id)
        assert continue_run(str(first.run_id))
        client = MlflowClient(store)
        experiment = client.get_experiment_by_name("bin").experiment_id
        found = client.search_runs([experiment], run_view_type=ViewType.ALL)
        assert [one.info.run_id for one in found if one.info.status == "RUNNING"] == [first.run_id]
        (left,) = [one for one in found if one.info.run_id == fresh]
        assert (left.info.status, left.info.lifecycle_stage) == ("KILLED", "deleted")
        assert str(first.run_id) in left.data.tags["reason"]


def test_a_worker_that_was_left_does_not_end_the_run_that_another_goes_on_in(store: str) -> None:
    code = (
        "import time; from dinomill.tracking import open_run\n"
        f"with open_run('pretraining', tracking_uri='{store}', experiment='left') as run:\n"
        "    print(run.run_id, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    process.kill()
    process.wait()
    worker = attach(run_id, store)  # it is still saving when the next start of its work has begun
    with open_run("pretraining", tracking_uri=store, experiment="left") as run:
        assert continue_run(run_id)
        assert not end_for(worker, process.pid, "KILLED", "its launcher is gone")
        assert read(store, run) == ("RUNNING", None)
    assert read(store, run) == ("FINISHED", None)
    with open_run("pretraining", tracking_uri=store, experiment="left") as another:
        assert end_for(attach(another.run_id, store), os.getpid(), "KILLED", "its launcher is gone")
        assert read(store, another) == ("KILLED", "its launcher is gone")


def test_a_clock_that_was_set_does_not_make_a_living_process_another(store: str) -> None:
    with open_run("pretraining", tracking_uri=store, experiment="clock") as run:
        tag = MlflowClient(store).get_run(str(run.run_id)).data.tags["process"]
        number, _, begun, _, host = tag.split(" ")
        assert not life.is_gone(f"{number} since {float(begun) + 2:.2f} on {host}")
        assert life.is_gone(f"{number} since {float(begun) - 86400:.2f} on {host}")
