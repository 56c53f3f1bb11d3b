"""The same through a real MLflow server, which keeps the artifacts behind its own address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinomill import tracking
from dinomill.errors import MachineError
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.example import example_table
from dinomill.registration.register import register_model
from dinomill.serving.predictor import Predictor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/kept"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process, folder / "log.txt")
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_registered_and_fetched_once(
    server: str, tmp_path: Path, teacher, students, evaluated, curated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = RegistrationConfig.parse(
        {"output": tmp_path / "out", "tracking": {"tracking_uri": server}}, where="the test"
    )
    handle = register_model(teacher, students, evaluated(), curated, config)
    assert handle.aliases == ("candidate", "champion")
    folder = tracking.download(handle.uri, server)
    assert folder.is_relative_to(tmp_path / "cache")
    (folder / "mark").touch()
    assert (tracking.download(handle.uri, server) / "mark").exists()
    table = example_table(3, 16)
    expected = Predictor(handle.source)(table["image"].tolist())
    np.testing.assert_array_equal(Predictor(folder)(table["image"].tolist()), expected)
    assert register_model(teacher, students, evaluated(), curated, config) == handle


def test_what_a_scoring_server_receives(server: str, tmp_path: Path, teacher, students, evaluated, curated) -> None:
    """`mlflow models serve` takes JSON: bytes travel in base64, and MLflow turns them back by the signature."""
    import json

    import mlflow
    from mlflow.models import convert_input_example_to_serving_input, validate_serving_input

    config = RegistrationConfig.parse(
        {"output": tmp_path / "out", "name": "served", "tracking": {"tracking_uri": server}}, where="the test"
    )
    handle = register_model(teacher, students, evaluated(), curated, config)
    mlflow.set_tracking_uri(server)
    table = example_table(3, 16)
    request = convert_input_example_to_serving_input(table)
    assert isinstance(json.loads(request), dict)
    answer = validate_serving_input(handle.uri, request)
    np.testing.assert_allclose(answer, Predictor(handle.source)(table["image"].tolist()), atol=1e-6)


def test_a_server_that_goes_away_is_said(
    tmp_path: Path, teacher, students, evaluated, curated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = RegistrationConfig.parse(
        {"output": tmp_path / "out", "tracking": {"tracking_uri": "http://127.0.0.1:9"}}, where="the test"
    )
    with pytest.raises(MachineError, match="cannot be used"):
        register_model(teacher, students, evaluated(), curated, config)
    assert not (tmp_path / "out").exists()
