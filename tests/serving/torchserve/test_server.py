from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from dinomill.errors import MachineError
from dinomill.serving import leash
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import Ports, ServerConfig
from dinomill.serving.torchserve.server import TorchServe, check_ports, free_ports

ONE_WORKER = ServerConfig(workers=1, threads=1, max_request_mb=1)


@pytest.fixture(scope="module")
def store(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    build_archive(
        backbone, folder, model="mill", version="3", batching=BatchingConfig(max_instances=4), server=ONE_WORKER
    )
    return folder


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    os.environ["MLFLOW_TRACKING_PASSWORD"] = "hush"
    try:
        with TorchServe("mill", store, tmp_path_factory.mktemp("run"), ONE_WORKER, free_ports()) as running:
            running.wait_ready(120)
            yield running
    finally:
        del os.environ["MLFLOW_TRACKING_PASSWORD"]


def _post(server: TorchServe, body: bytes, **options: str) -> client.Answer:
    options = {"token": server.token()} | options
    return client.request("POST", server.ports.inference, "/predictions/mill", body=body, **options)  # type: ignore[arg-type]


def _type(content_type: str | None) -> dict[str, str]:
    return {} if content_type is None else {"content_type": content_type}


def test_it_embeds_as_the_model_does(server: TorchServe, backbone: Path, photographs: list[bytes]) -> None:
    expected = Predictor(backbone)(photographs)
    token, port = server.token(), server.ports.inference
    assert np.allclose(client.embed(port, "mill", photographs[:1], token=token), expected[:1], atol=1e-4)
    assert np.allclose(client.embed(port, "mill", photographs[:4], token=token), expected[:4], atol=1e-4)


@pytest.mark.parametrize("body", [b"garbage", b"\xff\xd8\xff\xe0 cut", b"", b'{"a": 1}'])
def test_what_is_no_image_is_refused_with_a_message(server: TorchServe, body: bytes) -> None:
    answer = _post(server, body)
    assert answer.status == 400
    assert answer.body["error"]
    assert "Traceback" not in answer.message()


def test_more_images_than_allowed_are_refused(server: TorchServe, photographs: list[bytes]) -> None:
    request = client.json_instances([b"x"] * 5)
    answer = _post(server, request["body"], content_type=request["content_type"])
    assert answer.status == 400
    assert "at most 4" in answer.message()


def test_a_token_is_needed(server: TorchServe, photographs: list[bytes]) -> None:
    for token in ("", "wrong", server.token("management")):
        answer = _post(server, photographs[0], token=token)
        assert 400 <= answer.status < 500
        assert "Token" in answer.message()


def test_large_requests_are_refused(server: TorchServe) -> None:
    assert _post(server, b"0" * (2 << 20)).status == 413


@pytest.mark.skipif(sys.platform != "linux", reason="SIGQUIT has Java print its threads; looked up in /proc")
def test_what_java_prints_itself_cannot_fill_the_disk(server: TorchServe) -> None:
    log = server.console.parent / "start.log"
    assert "Model server started." in log.read_text()
    java = psutil.Process(server._process.pid).children()[0]  # type: ignore[union-attr]
    deadline, largest = time.monotonic() + 60, 0
    while "is left out" not in log.read_text(errors="replace"):  # a look at its threads is some 30 kB
        assert time.monotonic() < deadline
        java.send_signal(signal.SIGQUIT)
        time.sleep(0.05)
        largest = max(largest, log.stat().st_size)
    assert 100_000 < largest <= leash.KEPT_BYTES + 200
    assert "Full thread dump" in log.read_text(errors="replace")
    assert "Model server started." in log.read_text(errors="replace")


def test_models_cannot_be_added(server: TorchServe, tmp_path: Path) -> None:
    for url in ("mill.mar", "https://example.org/evil.mar", f"file://{tmp_path}/evil.mar"):
        path, token = f"/models?url={url}", server.token("management")
        assert client.request("POST", server.ports.management, path, token=token).status == 405


def test_every_port_listens_on_loopback_only(server: TorchServe) -> None:
    family = [psutil.Process(server._process.pid)]  # type: ignore[union-attr]
    family += family[0].children(recursive=True)
    listening = [c.laddr for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert {address.port for address in listening} >= set(server.ports.model_dump().values())
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_secrets_stay_outside(server: TorchServe) -> None:
    key_file = server.run / client.KEY_FILE
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.run.stat().st_mode) == 0o700
    for process in psutil.Process(server._process.pid).children(recursive=True):  # type: ignore[union-attr]
        assert "MLFLOW_TRACKING_PASSWORD" not in process.environ()


def test_nested_json_harms_no_other_request(server: TorchServe, photographs: list[bytes]) -> None:
    """TorchServe's worker would decode JSON itself; it is told not to, and the handler does, request by request."""
    deep = b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bodies = [(photographs[0], None), (deep, "application/json")] * 8
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: _post(server, one[0], **_type(one[1])), bodies))
    assert [answer.status for answer in answers] == [200, 400] * 8
    assert all("nested too deeply" in answer.message() for answer in answers[1::2])
    assert "Failed json decoding" not in server.console.read_text()


def test_a_form_is_refused_and_not_written_down(server: TorchServe, photographs: list[bytes]) -> None:
    form = "application/x-www-form-urlencoded"
    read = _post(server, b"my=secret-one", **_type(form))
    assert read.status == 400
    assert "sent as a form" in read.message()
    assert "secret-one" not in read.message()
    for body in (b"secret-two%zz", photographs[0]):  # no form at all: Java's own error, for who sent it
        assert 400 <= _post(server, body, **_type(form)).status <= 500
    written = "".join(file.read_text(errors="replace") for file in (server.run / "logs").iterdir())
    assert "secret-one" not in written
    assert "secret-two" not in written
    assert "Bad string" not in written
    assert _post(server, photographs[0]).status == 200


def test_logs_rotate_and_requests_are_in_one_of_them(server: TorchServe, photographs: list[bytes]) -> None:
    _post(server, photographs[0])
    names = {file.name for file in (server.run / "logs").iterdir()}
    assert names == {"console.log", "access.log", "start.log"}
    assert "/predictions/mill" in (server.run / "logs" / "access.log").read_text()
    assert "embedding model (" in server.console.read_text()
    settings = (server.run / "log4j2.xml").read_text()
    assert settings.count('SizeBasedTriggeringPolicy size="16 MB"') == settings.count("<RollingFile") == 2


def test_metrics_are_in_prometheus_format(server: TorchServe, photographs: list[bytes]) -> None:
    def counted() -> dict[str, float]:
        answer = client.request("GET", server.ports.metrics, "/metrics")
        assert answer.status == 200
        lines = [line for line in answer.body.splitlines() if not line.startswith("#")]
        return {
            line.rsplit(" ", 1)[0].replace('Hostname="' + socket.gethostname() + '",', ""): float(
                line.rsplit(" ", 1)[1]
            )
            for line in lines
        }

    before = counted()
    for body in (photographs[0], photographs[1], photographs[0][:2000]):
        _post(server, body)
    grown: dict[str, float] = {}
    deadline = time.monotonic() + 10  # Java reads them from the worker's output
    while (
        grown.get('dinomill_worker_requests_total{model="mill",status="400",}') != 1.0 and time.monotonic() < deadline
    ):
        now = counted()
        grown = {name: value - before.get(name, 0.0) for name, value in now.items() if name.startswith("dinomill_")}
        time.sleep(0.1)
    assert grown['dinomill_worker_images_total{model="mill",}'] == 2
    assert grown['dinomill_worker_requests_total{model="mill",status="200",}'] == 2
    assert grown['dinomill_worker_refused_total{model="mill",reason="truncated",}'] == 1
    assert grown['dinomill_worker_compute_seconds_count{model="mill",}'] >= 1
    assert now['dinomill_worker_starts_total{model="mill",}'] == 1
    assert any(name.startswith('dinomill_worker_info{model="mill",version="3"') for name in now)
    assert "[METRICS]" not in server.console.read_text()


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=f"Port {port} \\(inference\\)"):
            check_ports(free_ports(inference=port))


def test_free_ports_keeps_the_given_ones() -> None:
    ports = free_ports(inference=8080)
    assert ports.inference == 8080
    assert len(set(ports.model_dump().values())) == len(Ports.model_fields)


def test_a_model_that_cannot_be_loaded_fails_soon_and_shows_why(backbone: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((backbone / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"cut off")
    build_archive(
        broken, tmp_path / "store", model="mill", version="1", batching=BatchingConfig(), server=ServerConfig(threads=1)
    )
    start = time.monotonic()
    with (
        pytest.raises(MachineError) as caught,
        TorchServe("mill", tmp_path / "store", tmp_path / "run", ONE_WORKER, free_ports()) as running,
    ):
        running.wait_ready(120)
    assert "safetensors" in str(caught.value)
    assert time.monotonic() - start < 100
    assert (tmp_path / "run" / "logs" / "console.log").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a process with its parent; others do not")
def test_nothing_is_left_when_the_leash_is_killed(store: Path, tmp_path: Path) -> None:
    with TorchServe("mill", store, tmp_path / "run", ONE_WORKER, free_ports()) as running:
        running.wait_ready(120)
        leash = psutil.Process(running._process.pid)  # type: ignore[union-attr]
        family = leash.children(recursive=True)
        assert len(family) >= 2  # Java, a worker
        leash.kill()
        _, alive = psutil.wait_procs(family, timeout=40)
        assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
        assert not running.running()
    assert not (tmp_path / "run" / client.KEY_FILE).exists()


_STARTER = """
import sys, time
from pathlib import Path
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import TorchServe, free_ports
config = ServerConfig(workers=1, threads=1)
with TorchServe("mill", Path(sys.argv[1]), Path(sys.argv[2]), config, free_ports()) as server:
    server.wait_ready(120)
    print("ready", flush=True)
    time.sleep(120)
"""


def test_nothing_is_left_when_the_starter_is_killed(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STARTER, str(store), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"ready\n"
        family = psutil.Process(starter.pid).children(recursive=True)
        assert len(family) >= 3  # the leash, Java, a worker
        starter.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert not (tmp_path / "run" / client.KEY_FILE).exists()
