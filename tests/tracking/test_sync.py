"""A server that is not there, goes away, and comes back: nothing that was recorded is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dinomill import tracking
from dinomill.commands.tracking_sync import synchronise as command
from dinomill.errors import MachineError
from dinomill.tracking.spool import Spool, is_spooled, waiting
from dinomill.tracking.sync import synchronise
from tests.mlflow_server import Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("server"))
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOMILL_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "60")


def test_recorded_without_a_server_and_brought_to_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("first")
    described = tracking.Described({"hardware": "a machine"}, {"configuration.yml": "seed: 7\n"})
    at_work = tracking.Invocation("start 1", "kedro run all", lambda: described)
    with (
        tracking.invocation(at_work),
        tracking.open_run("curation", tracking_uri=server.address, experiment="away", params={"a": {"b": 1}}) as run,
    ):
        assert run.spooled and run.writes
        for name, value in run.environment().items():
            monkeypatch.setenv(name, value)
        worker = tracking.attach()
        worker.log_metrics([(0, {"loss": 2.0}), (1, {"loss": 1.0})])
        run.log_artifacts(page)
        page.write_text("replaced since")
        run.log_dataset("curated", "d" * 64, str(tmp_path), rows=9)
        run.log_model_made("small", "a" * 64, {"steps": 3})
    with (
        pytest.raises(ValueError, match="broken"),
        tracking.open_run("evaluation", tracking_uri=server.address, experiment="away") as other,
    ):
        other.log_models_used(["a" * 64])
        raise ValueError("broken")
    with pytest.raises(MachineError, match="cannot be used"):
        synchronise()
    assert len(waiting()) == 2
    server.start()
    assert command() == 0
    assert not waiting() and command() == 0
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("away")
    assert experiment is not None
    runs = {one.data.tags["stage"]: one for one in client.search_runs([experiment.experiment_id])}
    curation, parent = runs["curation"], runs["pipeline"]
    assert curation.info.status == "FINISHED" and curation.data.params == {"a.b": "1"}
    assert curation.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.run_name == "kedro run all" and parent.info.status == "FINISHED"
    assert parent.data.tags["hardware"] == "a machine"
    assert [point.value for point in client.get_metric_history(curation.info.run_id, "loss")] == [2.0, 1.0]
    assert Path(client.download_artifacts(curation.info.run_id, "page.html", str(tmp_path))).read_text() == "first"
    assert Path(client.download_artifacts(parent.info.run_id, "configuration.yml")).read_text() == "seed: 7\n"
    assert [entry.dataset.name for entry in curation.inputs.dataset_inputs] == ["curated"]
    evaluation = client.get_run(runs["evaluation"].info.run_id)
    assert (evaluation.info.status, evaluation.data.tags["reason"]) == ("FAILED", "ValueError: broken")
    assert [one.model_id for one in evaluation.inputs.model_inputs] == [
        one.model_id for one in curation.outputs.model_outputs
    ]


def test_a_server_that_goes_away_during_a_run(server: Server, tmp_path: Path) -> None:
    with tracking.open_run("pretraining", tracking_uri=server.address, experiment="gone") as run:
        assert not run.spooled
        run.log_metrics({"loss": 3.0}, 0)
        server.stop()
        run.log_metrics({"loss": 2.0}, 1)
        run.set_tags({"health": "good"})
    assert [one.run_id for one in waiting()] == [run.run_id]
    server.start()
    (done,) = synchronise()
    assert done.run_id == run.run_id and done.left is None
    client = MlflowClient(server.address)
    kept = client.get_run(str(run.run_id))
    assert kept.info.status == "FINISHED" and kept.data.tags["health"] == "good"
    assert [point.value for point in client.get_metric_history(kept.info.run_id, "loss")] == [3.0, 2.0]


def test_a_kill_during_the_import_writes_nothing_twice(server: Server) -> None:
    tags = {"stage": "curation", "process": "1 since 0.00 on nowhere"}
    spool = Spool.begin(server.address, "twice", "curation", tags, None)
    for step in range(3):
        spool.keep(server.address, "metrics", {"rows": [["loss", 1.0, 1000 + step, step]]})
    spool.keep(server.address, "end", {"status": "FINISHED"})
    with spool.journal.open("a") as journal:
        journal.write('{"tags": {"val')  # a kill in the middle of a line
    kept = spool.journal.read_text()
    assert synchronise("sqlite:///another.db") == []
    (first,) = synchronise(server.address)
    spool.folder.mkdir()
    spool.journal.write_text(kept)
    spool.mark(2)
    (second,) = synchronise()
    assert is_spooled(spool.run_id) and first.run_id == second.run_id
    client = MlflowClient(server.address)
    assert len({point.step for point in client.get_metric_history(first.run_id, "loss")}) == 3
    assert client.get_run(first.run_id).info.status == "FINISHED"


def test_a_journal_that_cannot_be_read_is_left_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "spool" / "spooled-1"
    place.mkdir(parents=True)
    (place / "journal.jsonl").write_text(json.dumps({"tags": {"values": {}}}) + "\n")
    assert command() == 1
    assert "left: its first line is not whole" in capsys.readouterr().out
