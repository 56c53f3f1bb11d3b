from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dinomill.errors import MachineError
from dinomill.serving.gateway.serve import _listening, serve
from dinomill.serving.torchserve.behind import unlike_package
from dinomill.serving.torchserve.properties import ServerConfig
from tests.serving.gateway.served import SERVER, serving


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """The median of 20 small answers took 60 ms on one connection: headers and body are two packets."""

    async def answered() -> int:
        sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            sent.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _listening("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(accepted, sock=listener):
                _, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
                found = await sent
                writer.close()
                return found

    assert asyncio.run(answered())


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
