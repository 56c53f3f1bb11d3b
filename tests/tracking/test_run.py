from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError

from dinomill.errors import ConfigError, MachineError
from dinomill.tracking import Run, TrackingConfig, attach, open_run, redact, resolve_uri
from dinomill.tracking.connection import connect, database_path


def test_a_run_keeps_metrics_parameters_tags_artifacts_and_data(store: str, tmp_path: Path) -> None:
    (tmp_path / "curve.txt").write_text("1 2 3")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.svg").write_text("<svg/>")
    with open_run(
        "pretraining",
        tracking_uri=store,
        params={"optimiser": {"lr": 1e-3}, "crops": [2, 8], "s3": {"secret_key": "hunter2"}, "num_register_tokens": 4},
        tags={"config_hash": "abc"},
    ) as run:
        run.log_metrics({"loss": 2.5, "broken": float("nan")}, step=1)
        run.log_metrics((step, {"loss": 1.0 / step, "lr": 0.1}) for step in range(2, 1502))
        run.log_artifacts(tmp_path / "curve.txt")
        run.log_artifacts(tmp_path / "plots", "plots")
        run.log_dataset("curated", "f" * 64, "data/05_model_input/curated", rows=12)

    assert run.run_id is not None
    client = MlflowClient(store)
    kept = client.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "pretraining"
    assert kept.data.params == {"optimiser.lr": "0.001", "crops": "2, 8", "num_register_tokens": "4"}
    assert kept.data.tags["config_hash"] == "abc"
    assert kept.data.tags["stage"] == "pretraining"
    history = client.get_metric_history(run.run_id, "loss")
    assert len(history) == 1501
    assert {point.step: point.value for point in history}[1000] == pytest.approx(1e-3)
    assert "broken" not in kept.data.metrics
    assert sorted(item.path for item in client.list_artifacts(run.run_id)) == ["curve.txt", "plots"]
    (data,) = kept.inputs.dataset_inputs
    assert data.dataset.name == "curated"
    assert data.dataset.digest == "f" * 36
    assert json.loads(data.dataset.profile) == {"images": 12, "sha256": "f" * 64}


def test_artifacts_lie_beside_the_database(store: str) -> None:
    with open_run("evaluation", tracking_uri=store) as run:
        pass
    database = database_path(store)
    assert database is not None
    assert run.run_id is not None
    uri = MlflowClient(store).get_run(run.run_id).info.artifact_uri
    assert uri.startswith((database.parent / "artifacts").as_uri())


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_says_how_it_ended(store: str, error: type[BaseException], status: str) -> None:
    opened: list[Run] = []
    with pytest.raises(error), open_run("curation", tracking_uri=store) as run:
        opened.append(run)
        raise error
    assert opened[0].run_id is not None
    assert MlflowClient(store).get_run(opened[0].run_id).info.status == status


def test_a_worker_joins_by_environment_and_only_rank_0_writes(store: str) -> None:
    code = (
        "import os; from dinomill.tracking import attach\n"
        "run = attach(); run.log_metrics({'rank': float(os.environ['RANK'])}, step=int(os.environ['RANK']))\n"
        "print(run.writes)"
    )
    with open_run("pretraining", tracking_uri=store) as run:
        printed = [
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "RANK": rank, **run.environment()},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for rank in ("0", "1")
        ]
    assert printed == ["True", "False"]
    assert run.run_id is not None
    assert [point.step for point in MlflowClient(store).get_metric_history(run.run_id, "rank")] == [0]


def test_without_a_run_everything_is_taken_and_nothing_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    run = attach()
    run.log_metrics({"loss": 1.0})
    run.log_params({"a": 1})
    run.log_dataset("x", "y", "z")
    assert not run.writes
    assert run.environment() == {}
    assert list(tmp_path.iterdir()) == []


def test_metrics_wait_for_a_store_that_is_away(
    store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient(store)
    with open_run("pretraining", tracking_uri=store) as run:
        away = connect("http://127.0.0.1:9")
        here, run._client = run._client, away
        run.log_metrics({"loss": 3.0}, step=1)
        assert "Metrics wait to be written (1 values)" in caplog.text
        run._client = here
        run.log_metrics({"loss": 2.0}, step=2)
        assert client.get_metric_history(str(run.run_id), "loss") == []  # not asked again within the minute
    assert run.run_id is not None
    points = MlflowClient(store).get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 3.0), (2, 2.0)]


def test_a_server_that_is_down_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("DINOMILL_SPOOL", str(tmp_path / "spool"))
    uri = "http://someone:hunter2@127.0.0.1:9"
    with open_run("curation", tracking_uri=uri) as run:
        assert run.spooled
    assert "cannot be used" in caplog.text and "tracking_uri" in caplog.text
    assert "dinomill tracking sync" in caplog.text and "hunter2" not in caplog.text
    (journal,) = (tmp_path / "spool").glob("*/journal.jsonl")
    assert journal.stat().st_mode & 0o077 == 0  # it holds the address as it was configured


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, but it is long enough to be looked at" * 50)
    with (
        pytest.raises(MachineError, match="cannot be used"),
        open_run("x", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"),
    ):
        pass


def test_two_stores_in_one_process_keep_their_own_models(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    connect(store).create_registered_model("only-here")
    other = connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert other.search_registered_models() == []
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", store)
    assert [model.name for model in connect(f"sqlite:///{tmp_path}/mlflow.db").search_registered_models()] == [
        "only-here"
    ]


def test_file_stores_are_refused_with_the_alternative() -> None:
    with pytest.raises(ValidationError, match=r"sqlite:///data/mlflow/mlflow\.db"):
        TrackingConfig(tracking_uri="./mlruns")
    with pytest.raises(ConfigError, match="refuses file stores"):
        TrackingConfig.parse({"tracking_uri": "file:///tmp/mlruns"}, where="parameters.yml")


def test_uris(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///data/m.db") == f"sqlite:///{tmp_path}/data/m.db"
    assert resolve_uri("http://host:5000") == "http://host:5000"
    assert redact("https://me:pw@host/x") == "https://…@host/x"


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import sys, dinomill.tracking; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_nothing_is_printed(store: str, tmp_path: Path) -> None:
    code = (
        "from dinomill.tracking import open_run\n"
        f"with open_run('curation', tracking_uri='sqlite:///{tmp_path}/new.db') as run:\n"
        "    run.log_metrics({'a': 1.0})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
