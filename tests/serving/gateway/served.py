"""Packages and gateways that the tests run for real, each gateway in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dinomill.handles import PackageHandle
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import free_ports
from dinomill.storage.hashing import hash_file

# Small limits, so that tests reach them.
SERVER = ServerConfig(workers=1, threads=1, max_request_mb=1)

_SERVE = """
import json, sys
from pathlib import Path
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.serve import serve
from dinomill.serving.torchserve.properties import ServerConfig
package, port, run, server, gateway, follow = sys.argv[1:]
serve(
    Path(package), port=int(port), run=Path(run),
    config=ServerConfig(**json.loads(server)), gateway=GatewayConfig(**json.loads(gateway)),
    follow=float(follow) or None,
)
"""


def make_package(
    folder: Path,
    backbone: Path,
    version: int,
    server: ServerConfig = SERVER,
    *,
    beside: Path | None = None,
    answer_bytes: int = 0,
    **told: Any,
) -> Path:
    """A package of a backbone, as the packaging stage leaves it, without the trial.

    Args:
        folder: Where it goes.
        backbone: An exported one.
        version: Its number.
        server: What is baked in.
        beside: What goes into the archive, too.
        answer_bytes: Of its largest answer to one image.
        told: More fields of its handle.
    """
    archive = build_archive(
        backbone,
        folder / "model_store",
        model="mill",
        version=str(version),
        batching=BatchingConfig(max_instances=4),
        server=server,
        beside=beside,
        answer_bytes=answer_bytes,
    )
    shape = json.loads((backbone / "config.json").read_text())["model"]
    PackageHandle(
        folder=folder,
        made_of="",
        archive=archive,
        archive_sha256=hash_file(archive),
        model="mill",
        version=version,
        embed_dim=shape["embed_dim"],
        smoke={},
        **told,
    ).save()
    return folder


class Served(NamedTuple):
    """A gateway that runs."""

    port: int
    run: Path
    process: subprocess.Popen[str]
    said: list[str]

    @property
    def token(self) -> str:
        return str(self.keys()["current"]["key"])

    def keys(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads((self.run / "tokens.json").read_text())
        return found

    def post(self, body: bytes, path: str = "/predictions/mill", **options: str | None) -> client.Answer:
        options = {"token": self.token} | options
        return client.request("POST", self.port, path, body=body, **options)  # type: ignore[arg-type]

    def get(self, path: str, token: str | None = None) -> client.Answer:
        return client.request("GET", self.port, path, token=token)

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.run / "logs" / "requests.log").read_text().splitlines()]

    def wait_said(self, words: str, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while words not in "".join(self.said):
            assert time.monotonic() < end, "".join(self.said)
            assert self.process.poll() is None, "".join(self.said)
            time.sleep(0.05)


@contextlib.contextmanager
def serving(
    package: Path, run: Path, *, server: ServerConfig = SERVER, follow: float = 0, ready: bool = True, **gateway: float
) -> Iterator[Served]:
    """A gateway with a package, stopped when the block ends."""
    port = free_ports().inference
    settings = [server.model_dump_json(), json.dumps(gateway), str(follow)]
    command = [sys.executable, "-c", _SERVE, str(package), str(port), str(run), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=said.extend, args=(process.stdout,), daemon=True)
        reader.start()
        served = Served(port, run, process, said)
        try:
            if ready:
                served.wait_said("Ctrl-C stops it.")
            yield served
        finally:
            process.terminate()
            process.wait(40)
            reader.join(5)
