"""A start of the pipeline has one parent run, whoever starts its stages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dinomill import tracking
from dinomill.tracking.invocation import dvc_command


@pytest.fixture(autouse=True)
def _not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")


def test_stages_are_children_of_one_run(store: str) -> None:
    asked = []

    def described() -> tracking.Described:
        asked.append(1)
        return tracking.Described({"hardware": "a machine"}, {"configuration.yml": "seed: 7\n"})

    at_work = tracking.Invocation("start 'a'", "dvc repro", described)
    with tracking.invocation(at_work):
        with tracking.open_run("curation", tracking_uri=store, experiment="family", name="curation · lite") as one:
            parent = MlflowClient(store).get_run(str(one.parent))
            assert parent.info.status == "RUNNING"
        with (
            pytest.raises(ValueError, match="broken"),
            tracking.open_run("evaluation", tracking_uri=store, experiment="family") as two,
        ):
            raise ValueError("broken")
    client = MlflowClient(store)
    assert one.parent == two.parent and len(asked) == 1
    parent = client.get_run(str(one.parent))
    assert (parent.info.run_name, parent.info.status) == ("dvc repro", "FAILED")
    assert parent.data.tags["hardware"] == "a machine" and parent.data.tags["stage"] == "pipeline"
    assert [found.path for found in client.list_artifacts(parent.info.run_id)] == ["configuration.yml"]
    assert client.get_run(str(one.run_id)).info.run_name == "curation · lite"
    with tracking.open_run("curation", tracking_uri=store, experiment="family") as alone:
        assert alone.parent is None


def test_a_training_that_is_taken_up_again_moves_to_the_start_that_does_so(store: str) -> None:
    first = tracking.Invocation("start 1", "kedro run")
    second = tracking.Invocation("start 2", "kedro run")
    with tracking.invocation(first), tracking.open_run("pretraining", tracking_uri=store, experiment="again") as before:
        earlier = str(before.run_id)
    with tracking.invocation(second), tracking.open_run("pretraining", tracking_uri=store, experiment="again") as now:
        environment = dict(os.environ)
        try:
            assert tracking.continue_run(earlier)
        finally:
            os.environ.clear()
            os.environ.update(environment)
    tags = MlflowClient(store).get_run(earlier).data.tags
    assert tags["mlflow.parentRunId"] == now.parent and tags["began_in"] == before.parent


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["/venv/bin/python", "/venv/bin/dvc", "repro", "evaluation"], "dvc repro"),
        (["dvc", "--quiet", "exp", "run", "-S", "a=1"], "dvc exp run"),
        (["python", "-m", "dvc", "repro"], "dvc repro"),
        (["python", "/venv/bin/kedro", "run"], None),
        (["vim", "dvc.yaml"], None),
        (["dvc"], None),
        ([], None),
    ],
)
def test_what_is_asked_of_dvc(line: list[str], told: str | None) -> None:
    assert dvc_command(line) == told


def test_processes_below_one_dvc_find_the_same_start(tmp_path: Path) -> None:
    """A stand-in by name only: what counts is the process above, its number and its beginning."""
    code = "from dinomill.tracking import started_by; print(started_by('kedro run'))"
    script = tmp_path / "dvc"
    script.write_text(
        f"import subprocess, sys\nfor _ in 1, 2:\n    subprocess.run([sys.executable, '-c', {code!r}], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "repro"], capture_output=True, text=True, check=True, timeout=120
    )
    one, two = done.stdout.splitlines()
    assert one == two and "'dvc repro')" in one
    named = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "DINOMILL_INVOCATION": "airflow 7"},
    )
    assert named.stdout.strip() == "('airflow 7', 'airflow 7')"


def test_the_machine_is_measured(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "30")
    with tracking.open_run("curation", tracking_uri=store) as run:
        pass
    with tracking.open_run("pretraining", tracking_uri=store) as training:
        pass
    client = MlflowClient(store)
    assert client.get_run(str(run.run_id)).data.metrics["system/system_memory_usage_percentage"] > 0
    of_training = client.get_run(str(training.run_id)).data.metrics
    assert "system/disk_usage_percentage" in of_training and "system/cpu_utilization_percentage" not in of_training
