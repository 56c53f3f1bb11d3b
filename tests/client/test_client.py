from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from dinomill.client import Client
from dinomill.client.link import Link, Retries
from dinomill.client.token import Token
from dinomill.errors import InputError, MachineError
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import client as plain
from tests.serving.gateway.served import Served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{served.port}", token_file=served.run / "tokens.json") as one:
        yield one


def test_it_says_what_is_served(client: Client) -> None:
    assert client.model.name == "mill"
    assert (client.model.version, client.model.max_instances, client.model.max_request_mb) == ("3", 4, 1.0)


def test_paths_bytes_and_pictures_are_embedded_in_order(
    client: Client, backbone: Path, photographs: list[bytes], tmp_path: Path
) -> None:
    expected = Predictor(backbone)(photographs)
    path = tmp_path / "photo.jpg"
    path.write_bytes(photographs[1])
    given = [photographs[0], path, *photographs[2:5], Image.open(io.BytesIO(photographs[5]))]
    got = client.embed(given)  # type: ignore[arg-type]  # more than one request may carry
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.9999
    assert np.allclose(client.embed(str(path)), expected[1:2], atol=1e-4)
    assert client.embed([]).shape == (0, expected.shape[1])


def test_images_are_read_as_they_are_needed(client: Client, photographs: list[bytes]) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield photographs[4]

    stream = client.stream(endless())
    assert next(stream).shape == (4, client.model.embed_dim)
    assert taken < 40
    stream.close()  # type: ignore[attr-defined]


def test_what_is_refused_is_named(client: Client, photographs: list[bytes], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photographs[0][:3000])
    with pytest.raises(InputError, match=r"broken\.jpg was refused"):
        client.embed([photographs[0], photographs[1], broken])
    with pytest.raises(InputError, match="image 1 was refused"):
        client.embed([photographs[0], b"nothing"])
    with pytest.raises(InputError, match="is too large for the server"):
        client.embed(b"0" * (1 << 20))
    with pytest.raises(InputError, match="cannot be read"):
        client.embed("nowhere.jpg")
    with pytest.raises(InputError, match="not an image"):
        client.embed([7])  # type: ignore[list-item]


def test_a_renewed_token_is_read_again(served: Served, tmp_path: Path, photographs: list[bytes]) -> None:
    copy = tmp_path / "token"
    copy.write_text("old\n")
    with Client(f"http://127.0.0.1:{served.port}", token_file=copy) as client:
        copy.write_text(served.token + "\n")
        assert client.embed(photographs[0]).shape[0] == 1
    with (
        Client(f"http://127.0.0.1:{served.port}", token="wrong") as client,
        pytest.raises(InputError, match="Token missing or not valid"),
    ):
        client.embed(photographs[0])


def test_a_killed_worker_is_not_noticed(served: Served, client: Client, photographs: list[bytes]) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.extend(len(part) for part in client.stream(photographs * 6)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    family = psutil.Process(served.process.pid).children(recursive=True)
    next(p for p in family if any("model_service_worker" in word for word in p.cmdline())).kill()
    for thread in threads:
        thread.join()
    assert sum(results) == 4 * 36


class _Busy(BaseHTTPRequestHandler):
    """Answers 503, then drops a connection, then answers."""

    protocol_version = "HTTP/1.1"
    ids: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.ids.append(self.headers["X-Request-Id"])
        tried = len(self.ids)
        if tried == 2:
            self.close_connection = True
            return
        body = b'{"error": "busy"}'
        self.send_response(200 if tried > 2 else 503)
        if tried < 2:
            self.send_header("Retry-After", "3")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[ThreadingHTTPServer]:
    _Busy.ids = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_it_comes_again_later_each_time_under_one_id(busy: ThreadingHTTPServer) -> None:
    slept: list[float] = []
    link = Link(f"http://127.0.0.1:{busy.server_port}", 5)
    assert link.ask("POST", "/", b"{}", Token("t", None), Retries(6, slept.append))
    link.close()
    assert len(slept) == 2
    assert slept[0] >= 3  # as the server asked
    assert len(_Busy.ids) == 3
    assert len(set(_Busy.ids)) == 1


def test_it_gives_up_and_says_so(busy: ThreadingHTTPServer) -> None:
    link = Link(f"http://127.0.0.1:{busy.server_port}", 5)
    with pytest.raises(MachineError, match="did not answer") as caught:
        link.ask("POST", "/", b"{}", Token("t", None), Retries(0, lambda _: None))
    assert "HTTP 503: busy, after 1 tries" in str(caught.value)
    link.close()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://a", "http://", "http://a:b", "http://a/?b=c"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="not the address of a server"):
        Client(url, token="t")


def test_tokens_that_are_none_are_refused(tmp_path: Path) -> None:
    for given in ({}, {"token": "a", "token_file": "b"}, {"token": ""}, {"token": "a\nb"}, {"token_file": tmp_path}):
        with pytest.raises(InputError):
            Client("http://127.0.0.1:1", **given)  # type: ignore[arg-type]
    (tmp_path / "t").write_text('{"other": 1}')
    with pytest.raises(InputError, match="holds no token"):
        Client("http://127.0.0.1:1", token_file=tmp_path / "t")


def test_it_needs_no_torch() -> None:
    heavy = ("torch", "mlflow", "PIL", "pandas", "kedro", "pydantic")
    code = f"import sys, dinomill.client; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_other_servers_are_said_to_be_others(busy: ThreadingHTTPServer) -> None:
    with pytest.raises((InputError, MachineError)):
        Client(f"http://127.0.0.1:{busy.server_port}", token="t", retries=0).look()


def test_the_plain_client_of_the_trial_still_works(served: Served, photographs: list[bytes]) -> None:
    assert plain.embed(served.port, "mill", photographs[:1], token=served.token)
