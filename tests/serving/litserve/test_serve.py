"""A real LitServe on loopback: what is answered, what is refused, and what is left when something is killed."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hostile_kinds import GONE, KINDS, Target, ask, instances

from dinomill.client import Client
from dinomill.errors import MachineError
from dinomill.serving.litserve.process import LitServe
from dinomill.serving.litserve.trial import try_folder
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.server import free_ports


def _until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _target(served: LitServe) -> Target:
    return Target(served.port, "/predictions/mill", served.token)


def _processes(served: LitServe) -> list[psutil.Process]:
    assert served.process is not None
    first = psutil.Process(served.process.pid)
    return [first, *first.children(recursive=True)]


def _worker(served: LitServe) -> psutil.Process:
    """The process that holds the network: the largest one."""
    return max(_processes(served)[1:], key=lambda one: one.memory_info().rss)


def test_it_answers_as_the_model_does_and_refuses_the_rest(
    served: LitServe, backbone: Path, photographs: list[bytes]
) -> None:
    bodies = [b"garbage", photographs[0], b"", photographs[1], b'{"a": 1}', photographs[2][:500]]
    with ThreadPoolExecutor(len(bodies)) as pool:  # of one batch
        seen = list(pool.map(lambda body: ask(_target(served), body), bodies))
    assert [one.status for one in seen] == [400, 200, 400, 200, 400, 400]
    assert all(one.reason() for one in seen if one.status == 400)
    found = [seen[number].json()["embedding"] for number in (1, 3)]
    assert np.allclose(found, Predictor(backbone)(photographs[:2]), atol=1e-4)
    assert ask(_target(served)._replace(token=""), photographs[0]).status == 401


def test_what_is_no_request_and_who_closes_his_side_are_answered_by_the_gateway(
    served: LitServe, photographs: list[bytes]
) -> None:
    head = (
        f"POST /predictions/mill HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {served.token}\r\n"
    )
    whole = f"{head}Content-Length: {len(photographs[0])}\r\n\r\n".encode() + photographs[0]
    for sent, status, words in ((b"GET\r\n\r\n", b" 400 ", b'{"error":'), (whole, b" 200 ", b'"embedding"')):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as link:
            link.sendall(sent)
            link.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: link.recv(2**16), b""))
        assert status in answer and words in answer and b"x-request-id: " in answer


def test_the_page_opens_with_the_token_that_is_valid_now(served: LitServe) -> None:
    admin, old = json.loads((served.run / "tokens.json").read_text())["admin"]["key"], served.token
    assert client.request("POST", served.port, "/v1/token", token=admin).status == 200
    assert served.token != old
    assert served.token in (served.run / "open.html").read_text()


@pytest.mark.slow
def test_every_form_is_the_predictors(served: LitServe, backbone: Path, photographs: list[bytes]) -> None:
    expected = Predictor(backbone)(photographs)
    many = ask(_target(served), instances(photographs[:4]))
    assert np.allclose(many.json()["embeddings"], expected[:4], atol=1e-4)
    for dtype, tolerance in (("<f4", 1e-4), ("<f2", 1e-2)):
        name = np.dtype(dtype).name
        raw = ask(_target(served), photographs[0], {"Accept": f"application/octet-stream; dtype={name}"})
        assert np.allclose(np.frombuffer(raw.body, dtype), expected[0], atol=tolerance)
    seen = ask(_target(served), photographs[0], {"X-Want": "embedding,cls,mean_patch,patches,pca"})
    assert set(seen.json()) == {"embedding", "cls", "mean_patch", "patches", "pca"}
    asked = Client(f"http://127.0.0.1:{served.port}", token=served.token)
    assert np.allclose(asked.embed(photographs), expected, atol=1e-4)


@pytest.mark.slow
def test_hostile_requests_harm_themselves_alone(served: LitServe, backbone: Path, photographs: list[bytes]) -> None:
    expected, chance = Predictor(backbone)(photographs[:1])[0], random.Random(0)
    worker = _worker(served)
    for kind in KINDS:
        with ThreadPoolExecutor(3) as pool:
            good = [pool.submit(ask, _target(served), photographs[0]) for _ in range(2)]
            bad = kind.send(_target(served), chance, photographs[0])
        assert bad.status in kind.right, (kind.name, bad)
        assert bad.status in (200, GONE) or bad.reason(), kind.name
        for one in good:
            assert np.allclose(one.result().json()["embedding"], expected, atol=1e-4), kind.name
    assert worker.is_running()
    assert _worker(served) == worker


@pytest.mark.slow
def test_limits_are_kept(served: LitServe, photographs: list[bytes]) -> None:
    assert "at most 4" in ask(_target(served), instances(photographs[:5])).reason()
    assert ask(_target(served), bytes(2 << 20)).status == 413
    said = client.request("GET", served.port, "/v1/models", token=served.token).body["data"][0]
    assert said["limits"] == {
        "max_request_mb": 1, "max_instances": 4, "max_megapixels": 40, "embed_dim": 64, "channels": 3
    }  # fmt: skip


@pytest.mark.slow
def test_only_loopback_a_token_probes_and_none_of_litserves_own_addresses(served: LitServe, folder: Path) -> None:
    listening = [
        (one.laddr.ip, one.laddr.port)
        for process in _processes(served)
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {("127.0.0.1", served.port)}
    for path in ("/readyz", "/healthz", "/openapi.json", "/metrics"):
        assert client.request("GET", served.port, path).status == 200
    for path in ("/health", "/info", "/docs", "/predict", "/shutdown"):
        assert client.request("GET", served.port, path).status == 404
    assert client.request("POST", served.port, "/predict", body=b"{}", content_type="application/json").status == 404
    assert stat.S_IMODE((served.run / "tokens.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(served.run.stat().st_mode) == 0o700


@pytest.mark.slow
def test_answers_and_log_lead_to_lineage(served: LitServe, photographs: list[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    headers = {"Authorization": f"Bearer {served.token}", "X-Request-Id": "mine-1", "Accept-Encoding": "gzip"}
    connection.request("POST", "/predictions/mill", photographs[0], headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.headers["X-Request-Id"] == "mine-1"
    assert answer.headers["X-Model-Version"] == "3"
    assert answer.headers["Content-Encoding"] is None
    lines = [json.loads(line) for line in (served.run / "logs" / "requests.log").read_text().splitlines()]
    line = next(line for line in lines if line["id"] == "mine-1")
    assert (line["status"], line["model"], line["version"], len(line["archive"])) == (200, "mill", "3", 64)
    assert json.loads((served.run / "serving.json").read_text()) == {
        "address": f"http://127.0.0.1:{served.port}",
        "model": "mill",
        "version": "3",
        "archive": None,
        "archive_sha256": line["archive"],
    }


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_its_own_batch_and_comes_back(served: LitServe, photographs: list[bytes]) -> None:
    worker = _worker(served)
    worker.suspend()  # so that it has taken nothing, or holds what it took
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, _target(served), photographs[0]) for _ in range(4)]
        time.sleep(0.5)
        worker.kill()
        statuses = {one.result().status for one in waiting}
    assert statuses <= {200, 503}
    _until(lambda: ask(_target(served), photographs[0]).status == 200, 60)
    assert _worker(served) != worker


@pytest.mark.slow
def test_a_worker_that_comes_back_to_other_weights_ends_and_nobody_waits(
    folder: Path, tmp_path: Path, photographs: list[bytes]
) -> None:
    place = tmp_path / "folder"
    shutil.copytree(folder, place)
    with LitServe(place, place / "run", free_ports().inference) as server:
        server.wait_ready(120)
        weights = place / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
        _worker(server).kill()
        said = server.run / "console.log"
        _until(lambda: "holds another model" in said.read_text(), 60)
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/predictions/mill", photographs[0], {"Authorization": f"Bearer {server.token}"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert time.monotonic() - begun < 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_it_ends(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    with LitServe(folder, tmp_path / "run", free_ports().inference) as server:
        server.wait_ready(120)
        processes = _processes(server)
        with (
            pytest.raises(MachineError, match="A server runs in"),
            LitServe(folder, tmp_path / "run", free_ports().inference) as second,
        ):
            second.wait_ready(60)
        assert server.process is not None
        os.kill(server.process.pid, number)
        server.process.wait(30)
        _until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes), 15)
    if number != signal.SIGKILL:
        assert not (tmp_path / "run" / "open.html").exists()
        assert "Traceback" not in (tmp_path / "run" / "console.log").read_text()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_it_with_the_reason(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MachineError, match="ended while starting") as seen:
        try_folder(broken, seconds=60, min_cosine=0.999)
    assert "No worker can load the model" in str(seen.value)


@pytest.mark.slow
def test_the_trial_tells_right_from_wrong(folder: Path) -> None:
    figures = try_folder(folder, seconds=120, min_cosine=0.999)
    assert figures["cosine"] > 0.999
    with pytest.raises(MachineError, match="not those of the model"):
        try_folder(folder, seconds=120, min_cosine=1.1)
