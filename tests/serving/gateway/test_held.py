from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.errors import InputError
from dinomill.serving.gateway.bodies import Held, Refused
from dinomill.serving.gateway.embeddings import instances, read_embeddings
from dinomill.serving.gateway.replies import InParts

# Some clients at a time, each with 30 MB to send or to be sent; what they say at the end: statuses, and by how many
# megabytes the gateway's process grew at most.
_GATEWAY = """
import asyncio, http.client, json, os, socket, sys, threading, time
from pathlib import Path
import psutil
from dinomill.serving.gateway.app import Gateway
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.serve import _server
from dinomill.serving.gateway.tokens import ClientTokens
from dinomill.serving.gateway.upstream import Reply

kind, clients, held, run = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])

class Behind:
    model, version, archive_sha256, offers, about = "mill", "1", "", ("embedding",), {}
    def limits(self):
        return {"max_request_mb": 32, "max_instances": 4, "max_megapixels": 40, "embed_dim": 4, "channels": 3}

class Member:
    upstream = Behind()

class Fleet:
    current, swaps, asked = Member(), 0, 0
    async def ask(self, question):
        self.asked += 1
        end = time.monotonic() + 3
        while self.asked < clients and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        return Reply(200, bytes(30 << 20) if kind == "answers" else b'{"embeddings": [[1, 2, 3, 4]]}'), Behind()

class Log:
    def write(self, _): pass

size = 30 << 20
path = "/v1/embeddings" if kind == "embeddings" else "/predictions/mill"
body = b'{"input": "' + b"A" * size + b'"}' if kind == "embeddings" else bytes(size if kind == "bodies" else 10)
tokens, config = ClientTokens(run, 0), GatewayConfig(held_mb=held)
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen(64)
said, statuses, peak, me = [], [], [0], psutil.Process()
before = me.memory_info().rss

def ask():
    link = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=60)
    link.putrequest("POST", path)
    link.putheader("Authorization", "Bearer " + tokens.current)
    link.putheader("Content-Length", str(len(body)))
    link.endheaders()
    try:
        for start in range(0, len(body), 65536):
            link.sock.sendall(memoryview(body)[start : start + 65536])
    except OSError:
        pass
    answer = link.getresponse()
    if kind == "answers":
        time.sleep(2)
    if answer.status != 200:
        said.append((answer.status, answer.read().decode()))
    while answer.read(65536):
        pass
    statuses.append(answer.status)

def watch():
    while True:
        peak[0] = max(peak[0], me.memory_info().rss - before)
        time.sleep(0.005)

async def main():
    server = _server(Gateway(Fleet(), tokens, Log(), config), config)
    served = asyncio.create_task(server.serve(sockets=[listener]))
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    threading.Thread(target=watch, daemon=True).start()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await asyncio.sleep(0.05)
    server.should_exit = True
    await served

asyncio.run(main())
print(json.dumps({"statuses": sorted(statuses), "said": said, "megabytes": peak[0] / 2**20}))
"""


def _measured(kind: str, clients: int, held: int, run: Path) -> tuple[list[int], float, list[tuple[int, str]]]:
    run.mkdir(mode=0o700)
    command = [sys.executable, "-c", _GATEWAY, kind, str(clients), str(held), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    return found["statuses"], found["megabytes"], found["said"]


@pytest.mark.parametrize("kind", ["bodies", "embeddings", "answers"])
def test_the_gateway_takes_little_more_than_it_counts(kind: str, tmp_path: Path) -> None:
    """Bodies were there twice, those of /v1/embeddings nearly four times."""
    statuses, megabytes, _ = _measured(kind, 6, 256, tmp_path / "run")
    assert statuses == [200] * 6
    assert megabytes < 2.5 * 6 * 30  # what one takes while it is read as JSON, and what malloc keeps, included


def test_answers_that_are_not_read_count_too(tmp_path: Path) -> None:
    statuses, megabytes, said = _measured("answers", 6, 100, tmp_path / "run")
    assert statuses == [200] * 3 + [503] * 3
    assert all("Send it again" in words for _, words in said)
    assert megabytes < 6 * 30 + 60


def test_a_body_that_never_fits_is_told_so_at_once(tmp_path: Path) -> None:
    """The client was told to send it again, for ever."""
    statuses, _, said = _measured("bodies", 1, 20, tmp_path / "run")
    assert statuses == [413]
    assert "larger than 20 MB" in said[0][1]


def test_what_is_held_is_freed_and_one_alone_always_fits() -> None:
    held = Held(100)
    with held.account() as one, held.account() as other:
        one.take(150)
        with pytest.raises(Refused):
            other.take(1)
        one.free()
        other.take(100)
        with pytest.raises(Refused):
            one.take(1)
    with held.account() as one:
        one.take(100)


def test_a_request_is_rewritten_and_let_go() -> None:
    images = [base64.b64encode(bytes(range(200))).decode(), "data:image/png;base64,AAAA"]
    given = [images[0][:60] + "\n" + images[0][60:], images[1]]
    asked = read_embeddings(json.dumps({"input": given}).encode(), "mill", 4, 4)
    assert json.loads(instances(asked)) == {"instances": [{"b64": image} for image in images]}
    assert asked.images == ["", ""]


@pytest.mark.parametrize("text", ["\U0001f600" * 10, "AA\u0000AA", 'AA"AA', "AA\\AA", "A cat, on a mat."])
def test_what_is_no_base64_is_not_handed_on(text: str) -> None:
    with pytest.raises(InputError, match="Input 0 is no base64"):
        read_embeddings(json.dumps({"input": text}).encode(), "mill", 4, 4)


@pytest.mark.parametrize("size", [0, 5, 2**18, 2**18 + 1, 10**6])
def test_an_answer_is_sent_in_parts(size: int) -> None:
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(InParts(bytes(size), 200)({}, None, send))  # type: ignore[arg-type]
    assert sum(len(one.get("body", b"")) for one in sent) == size  # type: ignore[arg-type]
    assert [bool(one.get("more_body")) for one in sent[1:]] == [True] * (len(sent) - 2) + [False]


def test_a_key_that_is_null_is_a_key_that_is_not_given() -> None:
    nothing = dict.fromkeys(("model", "dimensions", "encoding_format", "user"))
    given = base64.b64encode(b"image").decode()
    assert read_embeddings(json.dumps({"input": given, **nothing}).encode(), "mill", 4, 4).images == [given]
    with pytest.raises(InputError, match="no such model"):
        read_embeddings(json.dumps({"input": given, "model": 3}).encode(), "mill", 4, 4)
