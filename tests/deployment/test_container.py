"""The container's program: its settings and tokens; and, slowly, all of the image but Docker, served behind TLS."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from dinomill.deployment.container import main, read_settings, take_tokens
from dinomill.deployment.dashboard import queries
from dinomill.errors import ConfigError
from dinomill.serving.predictor import Predictor
from tests.deployment.test_dashboard import alerts, metrics_in
from tests.deployment.tools import tool

CONFINED = Path(__file__).with_name("confined.sh")


def test_settings_with_a_wrong_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"server": {"worker": 2}}')
    with pytest.raises(ConfigError, match="worker"):
        read_settings(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"settings\.json cannot be read"):
        read_settings(path)
    path.write_text('{"server": {"workers": 2}, "gateway": {"overlap_minutes": 1}}')
    server, gateway = read_settings(path)
    assert (server.workers, gateway.overlap_minutes) == (2, 1)


def test_a_secrets_tokens_are_taken_privately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, run = tmp_path / "secret.json", tmp_path / "run"
    secret.write_text('{"current": {"key": "a"}}')
    secret.chmod(0o444)
    monkeypatch.setenv("DINOMILL_TOKENS", str(secret))
    for _ in range(2):  # at the second start as well
        take_tokens(run)
    assert (run / "tokens.json").read_text() == secret.read_text()
    assert stat.S_IMODE((run / "tokens.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    monkeypatch.setenv("DINOMILL_TOKENS", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="mount the secret"):
        take_tokens(run)


def test_new_tokens_are_ones_that_the_gateway_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dinomill.serving.gateway.tokens import ClientTokens

    assert main(["new-tokens"]) == 0
    made = tmp_path / "tokens.json"
    made.write_text(capsys.readouterr().out)
    monkeypatch.setenv("DINOMILL_TOKENS", str(made))
    take_tokens(tmp_path / "run")
    tokens = ClientTokens(tmp_path / "run", 60)
    assert tokens.accepts(json.loads(made.read_text())["current"]["key"])


def test_a_wrong_verb_or_port_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["server"]) == 2
    monkeypatch.setenv("DINOMILL_PORT", "http")
    assert main(["ready"]) == 1
    assert "DINOMILL_PORT is no port" in capsys.readouterr().err


def test_without_a_server_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DINOMILL_PORT", str(one.getsockname()[1]))
        assert main(["ready"]) == 1


def test_it_asks_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Asking:
        def open(self, address: str, timeout: float) -> None:
            asked.append(address)
            raise OSError(f"nobody answers within {timeout} s")

    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: Asking())
    for host in ("0.0.0.0", "::", "10.1.2.3"):
        monkeypatch.setenv("DINOMILL_HOST", host)
        assert main(["ready"]) == 1
    assert [one.removesuffix(":8080/readyz") for one in asked] == [
        "http://127.0.0.1",
        "http://[::1]",
        "http://10.1.2.3",
    ]


def test_it_asks_its_own_server_whatever_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("DINOMILL_PORT", str(server.server_port))
        found = main(["ready"])
        server.shutdown()
    assert found == 0


@pytest.fixture(scope="module")
def image_venv(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile's pip makes: the folder's requirements and nothing else."""
    if os.getuid() != 0 or shutil.which("setpriv") is None or shutil.which("unshare") is None:
        pytest.skip("needs root, unshare and setpriv: it makes a mount namespace")
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("no mount namespaces here")
    if given := os.environ.get("DINOMILL_IMAGE_VENV"):
        return Path(given)
    venv = tmp_path_factory.mktemp("image") / "venv"
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", str(venv / "bin/python")]
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(venv)], check=True)
    torch = os.environ.get("DINOMILL_TORCH", (written / "torch.txt").read_text().strip())
    # By pip, as in the Dockerfile: where torch comes from, a machine's own configuration of pip says.
    subprocess.run([venv / "bin/python", "-m", "pip", "install", "--quiet", *torch.split()], check=True)
    subprocess.run([*install, "--no-deps", "--requirement", str(written / "requirements.txt")], check=True)
    return venv


def _confined(written: Path, venv: Path, port: int, *command: str) -> list[str]:
    return [str(CONFINED), str(written), str(venv), sys.base_prefix, str(port), *command]


class Running(NamedTuple):
    """A running one; each program on the way to it becomes the next, so that the process is the gateway's."""

    port: int
    pid: int


@pytest.fixture(scope="module")
def running(written: Path, image_venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number = int(one.getsockname()[1])
    said = tmp_path_factory.mktemp("said") / "said.log"
    command = _confined(written, image_venv, number, "python", "-m", "dinomill.deployment.container")
    with said.open("wb") as log:
        process = subprocess.Popen([*command, "serve"], stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while subprocess.run([*command, "ready"], capture_output=True, check=False).returncode != 0:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(1)
        yield Running(number, process.pid)
    finally:
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, said.read_text()
        _gone, left = psutil.wait_procs(below, timeout=30)
        assert not left


def _token(running: Running) -> str:
    root = Path(f"/proc/{running.pid}/root")
    return str(json.loads((root / "var/lib/dinomill/run/tokens.json").read_text())["current"]["key"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_embeds_as_the_model_does(running: Running, backbone: Path, photographs: list[bytes]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/predictions/My.Mill_2",
        data=photographs[0],
        headers={"Authorization": f"Bearer {_token(running)}", "Content-Type": "image/jpeg"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        served = json.loads(answer.read())["embedding"]
    assert np.allclose(served, Predictor(backbone)(photographs[:1])[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_roots_and_java_is_the_wheels(running: Running) -> None:
    gateway = psutil.Process(running.pid)
    processes = [gateway, *gateway.children(recursive=True)]
    assert {uid for process in processes for uid in process.uids()} == {10001}
    for process in processes:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
    java = next(process for process in processes if process.name() == "java")
    assert java.cmdline()[0].startswith("/opt/venv/"), java.cmdline()[0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_only_the_volumes_can_be_written_to(written: Path, image_venv: Path) -> None:
    program = (
        "import os\n"
        "for folder in ('/', '/opt', '/opt/dinomill', '/opt/dinomill/app', '/opt/dinomill/package', '/opt/venv',\n"
        "               '/etc', '/usr', '/var/lib', '/tmp', '/var/lib/dinomill'):\n"
        "    try:\n"
        "        open(os.path.join(folder, 'planted'), 'w'); print(folder)\n"
        "    except OSError: pass\n"
    )
    done = subprocess.run(
        _confined(written, image_venv, 1, "python", "-c", program), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["/tmp", "/var/lib/dinomill"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_that_is_drawn_and_alerted_on_is_given(running: Running, photographs: list[bytes]) -> None:
    """Every name in the dashboard and the alerts is a metric of a running server, in Prometheus' format."""
    pytest.importorskip("promql_parser")
    import promql_parser

    parser = pytest.importorskip("prometheus_client.parser")
    for body in (photographs[0], b"no picture"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{running.port}/predictions/My.Mill_2",
            data=body,
            headers={"Authorization": f"Bearer {_token(running)}", "Content-Type": "image/jpeg"},
        )
        try:
            urllib.request.urlopen(request, timeout=60).close()
        except urllib.error.HTTPError as error:
            assert error.code == 400
    deadline = time.monotonic() + 90
    wanted = {
        name
        for query in [*queries(), *(rule["expr"] for rule in alerts())]
        for name in metrics_in(promql_parser.parse(query))
    }
    wanted -= {"up"}  # Prometheus' own
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        assert list(parser.text_string_to_metric_families(text))
        # The names as they stand: that parser lets every counter end with _total.
        given = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
        if wanted <= given or time.monotonic() > deadline:  # the machine's are measured once a minute
            break
        time.sleep(2)
    assert wanted <= given, wanted - given
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "a metric is declared twice"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_proxy_speaks_tls_and_hides_what_is_within(
    running: Running, written: Path, photographs: list[bytes], tmp_path: Path
) -> None:
    program = tool("caddy", "caddyserver")
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        outside, plain = one.getsockname()[1], other.getsockname()[1]
    text = (written / "proxy/Caddyfile").read_text()
    # Ports of this machine, its own certificate left where the test lies, and on loopback alone.
    options = f"\tadmin off\n\thttp_port {plain}\n\tskip_install_trust\n\tdefault_bind 127.0.0.1\n"
    (tmp_path / "Caddyfile").write_text(text.replace("\tadmin off\n", options, 1))
    environment = os.environ | {
        "DOMAIN": f"https://localhost:{outside}",
        "SERVER": f"127.0.0.1:{running.port}",
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    log = tmp_path / "caddy.log"
    with log.open("wb") as said:
        proxy = subprocess.Popen(
            [program, "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    root = tmp_path / "data/caddy/pki/authorities/local/root.crt"
    token = _token(running)

    def ask(path: str, *arguments: str) -> tuple[int, str]:
        command = ["curl", "--silent", "--cacert", str(root), "--max-time", "60", "--write-out", "\n%{http_code}"]
        command += [*arguments, f"https://localhost:{outside}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    try:
        deadline = time.monotonic() + 60
        while not root.exists() or ask("/")[0] != 200:
            assert proxy.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        (tmp_path / "a.jpg").write_bytes(photographs[0])
        send = ("--request", "POST", "--header", "Content-Type: image/jpeg", "--data-binary", f"@{tmp_path / 'a.jpg'}")
        status, body = ask("/predictions/My.Mill_2", *send, "--header", f"Authorization: Bearer {token}")
        assert status == 200, body
        assert len(json.loads(body)["embedding"]) > 0
        assert ask("/predictions/My.Mill_2", *send)[0] == 401
        for path in ("/metrics", "/healthz", "/readyz"):
            assert ask(path)[0] == 404
        assert token not in log.read_text()
    finally:
        proxy.terminate()
        proxy.wait(30)
