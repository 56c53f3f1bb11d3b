"""The server that hostile.py asks: the container's own program, the gateway with TorchServe behind it, on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from dinomill.handles import PackageHandle
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.storage.hashing import hash_file

# Without the proxies that the environment may name.
_HERE = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_READY_SECONDS = 300.0


class Served:
    """A package being served, in a process of its own.

    Args:
        backbone: The folder of an exported network.
        folder: Where the package and the run lie.
        model: The name under which it is served.
        config: How the server behind runs.
        embed_dim: Numbers of an embedding.
        small_disk: Give it a disk of so many megabytes for what it writes; needs root, who may mount one.
    """

    def __init__(
        self,
        backbone: Path,
        folder: Path,
        model: str,
        config: ServerConfig,
        embed_dim: int,
        small_disk: int | None = None,
    ) -> None:
        package = folder / "package"
        store = package / "model_store"
        archive = build_archive(backbone, store, model=model, version="1", batching=BatchingConfig(), server=config)
        PackageHandle(
            folder=package,
            made_of="benchmark",
            archive=archive,
            archive_sha256=hash_file(archive),
            model=model,
            version=1,
            embed_dim=embed_dim,
            smoke={},
        ).save(package)
        self.run = folder / "run"
        self.port = _free_port()
        settings = folder / "settings.json"
        settings.write_text(json.dumps({"server": config.model_dump(mode="json")}), encoding="utf-8")
        self._environment = os.environ | {
            "DINOMILL_PACKAGE": str(package),
            "DINOMILL_SETTINGS": str(settings),
            "DINOMILL_RUN": str(self.run),
            "DINOMILL_HOST": "127.0.0.1",
            "DINOMILL_PORT": str(self.port),
        }
        self._said = folder / "said.log"
        self.package = package
        self._command = [sys.executable, "-m", "dinomill.deployment.container", "serve"]
        if small_disk is not None:
            self.run.mkdir()
            mount = f'mount -t tmpfs -o size={small_disk}m,mode=700 small "$0" && exec "$@"'
            self._command = ["unshare", "--mount", "sh", "-c", mount, str(self.run), *self._command]

    def __enter__(self) -> Served:
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=said, stderr=subprocess.STDOUT
            )
        start = time.monotonic()
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() - start > _READY_SECONDS:
                self.__exit__(None, None, None)
                raise RuntimeError(f"the server did not start:\n{self._said.read_text(errors='replace')[-3000:]}")
            time.sleep(0.3)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)

    @property
    def pid(self) -> int:
        """Of the gateway."""
        return self._process.pid

    def token(self) -> str:
        """The clients'."""
        return str(json.loads((self.seen / "tokens.json").read_text(encoding="utf-8"))["current"]["key"])

    @property
    def seen(self) -> Path:
        """What it writes, as it sees it."""
        return Path(f"/proc/{self.pid}/root{self.run.absolute()}")

    def running(self) -> bool:
        """Whether the gateway lives."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the gateway a signal."""
        self._process.send_signal(number)

    def said(self) -> str:
        """What it told whoever started it."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def metrics(self) -> str:
        """What /metrics says."""
        return self._get("/metrics")

    def log(self) -> str:
        """What all of them wrote down about themselves; not the requests."""
        files = [
            self._said,
            *self.run.rglob("console*.log"),
            *self.run.rglob("start*.log"),
            *self.run.rglob("gateway*.log"),
        ]
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def _ready(self) -> bool:
        """Whether all workers answer."""
        try:
            workers = json.loads(self._get("/readyz"))["workers"]
        except (OSError, ValueError, urllib.error.URLError):
            return False
        return bool(workers["ready"] == workers["wanted"])

    def _get(self, path: str) -> str:
        with _HERE.open(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
