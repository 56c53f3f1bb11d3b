"""A real MLflow server for tests: on a free loopback port, stopped and started again where a test asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.seaweedfs import free_ports


class Server:
    """The server of a folder; it comes back at the same address, with what it knew.

    Args:
        folder: For its database, its artifacts and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", f"{self._folder}/kept"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self._folder / "log.txt"
        with log.open("a") as written:
            self._process = subprocess.Popen(
                command, env=environment, stdout=written, stderr=written, start_new_session=True
            )
        for _ in range(240):
            assert self._process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(log.read_text())

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            os.killpg(self._process.pid, 15)
            self._process.wait(timeout=30)
            self._process = None
