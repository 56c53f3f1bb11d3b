"""Start the server of a LitServe folder on loopback, wait until it answers, and stop it.

<run>/                 where it runs; see server.py
<run>/console.log      what it says
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from dinomill.errors import MachineError
from dinomill.serving.gateway.tokens import TOKENS
from dinomill.serving.leash import die_with_us
from dinomill.serving.litserve.server import HOSTS

SERVER = "server.py"
CONSOLE = "console.log"
# What the server needs of our environment. Everything else, credentials above all, stays here.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "TMPDIR")
_STOP_SECONDS = 45.0
_LOG_LINES = 40


class LitServe:
    """A running server.

    Args:
        folder: As `write_folder` wrote it.
        run: Where it runs; made private by it.
        port: To listen on.

    Use as a context manager: it is stopped when the block ends.
    """

    def __init__(self, folder: Path, run: Path, port: int) -> None:
        self.run, self.port = run, port
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LitServe:
        self.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, str(self._folder.absolute() / SERVER)]
        with (self.run / CONSOLE).open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--run", str(self.run.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,
                preexec_fn=die_with_us(),  # what it started ends with it
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its processes end with it
            self.process.wait()

    @property
    def token(self) -> str:
        """The clients' token."""
        return str(json.loads((self.run / TOKENS).read_text(encoding="utf-8"))["current"]["key"])

    def wait_ready(self, seconds: float) -> float:
        """Wait until all workers have loaded the model.

        Returns:
            The seconds that it took.

        Raises:
            MachineError: When it ends, or time is up; shows the end of what it said.
        """
        start = time.monotonic()
        while (waited := time.monotonic() - start) < seconds:
            assert self.process is not None
            if self.process.poll() is not None:
                raise self.failure(f"LitServe ended while starting, after {waited:.0f} s.")
            if self._ready():
                return time.monotonic() - start
            time.sleep(0.1)
        raise self.failure(f"LitServe was not ready after {seconds:.0f} s.")

    def failure(self, problem: str) -> MachineError:
        """An error with the end of what the server said."""
        said = (self.run / CONSOLE).read_text(encoding="utf-8", errors="replace").splitlines()
        return MachineError(problem, found="\n    ".join(["it said", *said[-_LOG_LINES:]]))

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(HOSTS[0], self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            workers = json.loads(connection.getresponse().read())["workers"]
            return bool(workers["ready"] == workers["wanted"])
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        finally:
            connection.close()
