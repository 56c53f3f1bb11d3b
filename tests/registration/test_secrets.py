"""Secrets of the environment and of conf/local are in nothing that a run and a registration leave with MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.config_loader import LayeredConfigLoader
from dinomill.stage_runs import StageRuns
from tests.exported import registered
from tests.packaging.test_secrets import _SECRETS, _contents


def test_nothing_of_a_secret_is_left(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(project)
    local = project / "conf" / "local"
    local.mkdir(exist_ok=True)
    (local / "credentials.yml").write_text("bucket:\n  key: planted-local-key\n  secret: planted-local-secret\n")
    conf = LayeredConfigLoader(str(project / "conf"), env="local", base_env="base", default_run_env="local")
    assert conf["credentials"]["bucket"]["key"] == "planted-local-key"  # it is there to be spilled
    store = registered(tmp_path / "data")
    runs = StageRuns()
    runs.begin("curation", tracking_uri=store, experiment="mine", params=conf["parameters"])
    runs.end()
    runs.begin("pretraining", tracking_uri=store, experiment="mine", params=conf["parameters"])
    runs.end(OSError(f"cannot reach {_SECRETS['DATABASE_URL']}"))
    looked = dict(_contents(tmp_path / "data"))
    assert any(name.endswith("mlflow.db") for name in looked)
    assert any(name.endswith("MLmodel") for name in looked)
    assert b"curation.embedding" in next(data for name, data in looked.items() if name.endswith("mlflow.db"))
    assert [name for name, data in looked.items() if b"planted-" in data] == []
