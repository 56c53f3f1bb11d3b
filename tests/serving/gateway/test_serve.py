from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dinomill.errors import MachineError
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.serve import _server, serve
from dinomill.serving.torchserve.behind import unlike_package
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import free_ports
from tests.serving.gateway.served import SERVER, Served, serving


def test_settings_that_only_a_new_package_would_take_are_said(package: Path) -> None:
    archive = package / "model_store" / "mill.mar"
    assert unlike_package(archive, SERVER) == []
    said = unlike_package(archive, ServerConfig(threads=1, max_request_mb=1, normalise=True, max_megapixels=10))
    assert len(said) == 2
    assert "packaging.server.normalise is True, and the package was made with False" in said[1]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_how_to_ask_and_stops_cleanly(
    package: Path, tmp_path: Path, photographs: list[bytes], signal_number: signal.Signals
) -> None:
    with serving(package, tmp_path / "run") as served:
        said = "".join(served.said)
        assert f"http://127.0.0.1:{served.port}/predictions/mill" in said
        family = psutil.Process(served.process.pid).children(recursive=True)
        (tmp_path / "image.jpg").write_bytes(photographs[0])
        # The printed command is what a user copies.
        curl = "\n".join(re.findall(r"^  ((?:TOKEN|curl).*)$", said, re.MULTILINE))
        answer = subprocess.run(
            ["bash", "-c", curl.replace("$(python", f"$({sys.executable}", 1)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert '"embedding"' in answer.stdout, answer.stdout + answer.stderr
        served.process.send_signal(signal_number)
        assert served.process.wait(40) == 0
    assert "Traceback" not in "".join(served.said)
    assert not [one for one in family if one.is_running()]
    assert {path.name for path in served.run.iterdir()} == {"tokens.json", "serving.json", "logs", "server-1", ".lock"}
    assert not list(served.run.glob("*/key_file.json"))


def test_it_can_be_stopped_while_it_starts(package: Path, tmp_path: Path) -> None:
    with serving(package, tmp_path / "run", ready=False) as served:
        served.wait_said("Starting TorchServe")
        assert served.process.poll() is None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(40) == 0
    assert "Traceback" not in "".join(served.said)


_FETCHING = """
import sys, time
from pathlib import Path
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.serve import _server, serve
asked = []
def find(go_on):
    asked.append(1)
    if len(asked) > int(sys.argv[1]):
        print("Fetching", flush=True)
        time.sleep(600)
    return Path(sys.argv[2])
serve(find, port=int(sys.argv[3]), run=Path(sys.argv[4]), follow=0.5)
"""


@pytest.mark.parametrize("before", [0, 1])
def test_it_can_be_stopped_while_a_package_is_fetched(package: Path, tmp_path: Path, before: int) -> None:
    """The first one, and one that is to take over."""
    told = [str(before), str(package), str(free_ports().inference), str(tmp_path / "run")]
    with subprocess.Popen([sys.executable, "-c", _FETCHING, *told], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while "Fetching" not in (line := process.stdout.readline()):
                assert line or process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def _half_sent(served: Served, image: bytes) -> socket.socket:
    """A request whose second half is still to come; it is under way when this returns."""
    link = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    head = f"POST /predictions/mill HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {served.token}\r\n"
    link.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image[: len(image) // 2])
    time.sleep(0.5)
    return link


def _read(link: socket.socket) -> bytes:
    return b"".join(iter(lambda: link.recv(2**16), b""))


def test_what_was_asked_is_answered_before_it_stops(package: Path, tmp_path: Path, photographs: list[bytes]) -> None:
    assert _server(None, GatewayConfig()).config.timeout_graceful_shutdown == 150  # type: ignore[arg-type]
    with serving(package, tmp_path / "run") as served, _half_sent(served, photographs[0]) as link:
        served.process.terminate()
        time.sleep(1)
        link.sendall(photographs[0][len(photographs[0]) // 2 :])
        assert b'"embedding"' in _read(link)
        assert served.process.wait(40) == 0
    assert "with 1 to answer first" in "".join(served.said)


def test_what_there_is_no_time_for_is_told_to_come_again(
    package: Path, tmp_path: Path, photographs: list[bytes]
) -> None:
    with (
        serving(package, tmp_path / "run", drain_seconds=1) as served,
        _half_sent(served, photographs[0]) as link,
    ):
        served.process.terminate()
        answer = _read(link)
        assert b" 503 " in answer and b'{"error":' in answer and b"retry-after" in answer
        assert served.process.wait(40) == 0


@pytest.mark.slow
def test_told_twice_it_stops_at_once(package: Path, tmp_path: Path, photographs: list[bytes]) -> None:
    with serving(package, tmp_path / "run") as served, _half_sent(served, photographs[0]):
        served.process.terminate()
        time.sleep(0.5)
        served.process.terminate()
        assert served.process.wait(20) == 0
    assert "Traceback" not in "".join(served.said)


def test_nothing_is_left_when_it_is_killed_and_the_next_one_starts_at_once(
    package: Path, tmp_path: Path, photographs: list[bytes]
) -> None:
    with serving(package, tmp_path / "run") as served:
        token = served.token
        family = psutil.Process(served.process.pid).children(recursive=True)
        assert len(family) >= 3  # the leash, Java, a worker
        served.process.kill()
        served.process.wait()
        with serving(package, tmp_path / "run") as again:
            assert again.post(photographs[0], token=token).status == 200  # clients need not be told a new one
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert not list(served.run.glob("*/key_file.json"))


def test_a_second_one_and_a_port_in_use_are_refused(package: Path, tmp_path: Path) -> None:
    with serving(package, tmp_path / "run") as served:
        with pytest.raises(MachineError, match="already"):
            serve(package, port=served.port, run=tmp_path / "run")
        with pytest.raises(MachineError, match=f"Port {served.port} cannot be used"):
            serve(package, port=served.port, run=tmp_path / "other")
        assert served.get("/readyz").status == 200
