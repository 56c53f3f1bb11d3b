"""Start TorchServe on loopback, wait until it answers, and stop it so that nothing is left running.

<run>/                       a private directory (0700), where the server runs
<run>/config.properties      rendered with this machine's ports and paths
<run>/log4j2.xml             what is logged
<run>/metrics.yaml           what is measured
<run>/key_file.json          the tokens, written by TorchServe (0600), removed at the end
<run>/.lock                  held while a server runs here
<run>/logs/                  see logs.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dinomill.errors import MachineError
from dinomill.serving import leash
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.baked import answer_bytes
from dinomill.serving.torchserve.java import find_java
from dinomill.serving.torchserve.logs import (
    CONSOLE,
    LOG_CONFIG,
    START,
    cause,
    is_hopeless,
    keep_last,
    render_log_config,
)
from dinomill.serving.torchserve.metrics_config import METRICS_CONFIG, render_metrics_config
from dinomill.serving.torchserve.properties import JAVA_FLAGS, Ports, ServerConfig, render_properties
from dinomill.serving.torchserve.run_folder import take_folder

# What the server needs of our environment. Everything else, credentials above all, stays here.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES")
_LOG_LINES = 40
# A worker that cannot load its model is started again and again, slower each time: no need to wait for the timeout.
# Linux allows 107 bytes for a socket's path; TorchServe appends "/.ts.sock.9000".
_MAX_SOCKET_FOLDER = 80


class TorchServe:
    """A running TorchServe with one model.

    Args:
        model: The model's name.
        store: The model store that holds ``<model>.mar``.
        run: The directory to run in; made private.
        config: What is the same on every machine.
        ports: The ports to open; see :func:`free_ports`.

    Use as a context manager: it is stopped when the block ends, and also when this process dies in any way.
    """

    def __init__(self, model: str, store: Path, run: Path, config: ServerConfig, ports: Ports) -> None:
        self.model = model
        self.run = run.absolute()
        self.ports = ports
        self._store = store.absolute()
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: Path | None = None
        self._lock: int | None = None

    @property
    def console(self) -> Path:
        """The log of what the server and its workers say."""
        return self.run / "logs" / CONSOLE

    def __enter__(self) -> TorchServe:
        java = find_java(self._config.java_home)
        self._lock = take_folder(self.run)
        try:
            check_ports(self.ports)
            self._process = self._start(java)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, java: Path) -> subprocess.Popen[bytes]:
        self.console.parent.mkdir(exist_ok=True)
        keep_last(self.console.parent)
        keys, properties = self.run / client.KEY_FILE, self.run / "config.properties"
        keys.unlink(missing_ok=True)  # of a server that was killed together with its leash
        largest = answer_bytes(self._store / f"{self.model}.mar")
        text = render_properties(self.model, self._store, self._config, self.ports, answer_bytes=largest)
        properties.write_text(text, encoding="utf-8")
        (self.run / LOG_CONFIG).write_text(render_log_config(), encoding="utf-8")
        (self.run / METRICS_CONFIG).write_text(render_metrics_config(), encoding="utf-8")
        self._temporary = _socket_folder()
        leashed = [sys.executable, "-I", leash.__file__, str(self._temporary), str(keys), "--"]
        with (self.console.parent / START).open("wb") as log:
            return subprocess.Popen(
                [*leashed, *self._command(java, properties)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.run,
                env=self._environment(java),
                start_new_session=True,
                # The leash holds the folder, too: it still stops the server when we were killed.
                pass_fds=() if self._lock is None else (self._lock,),
            )

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()  # the leash stops the server when its input ends
            try:
                process.wait(leash.GRACE_SECONDS + 10)
            finally:
                self._process = None
        (self.run / client.KEY_FILE).unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def token(self, kind: str = "inference") -> str:
        """The server's current token of a kind."""
        return client.read_token(self.run, kind)

    def renew(self, kind: str) -> None:
        """Have a new token of a kind written; the old one ends.

        Raises:
            OSError: When the server does not answer.
        """
        client.request("GET", self.ports.management, f"/token?type={kind}", token=self.token("API"), timeout=5)

    def wait_ready(self, timeout: float, tick: Callable[[float], None] | None = None) -> float:
        """Wait until the workers have loaded the model.

        Args:
            timeout: Seconds.
            tick: Called a few times a second with the seconds waited so far.

        Returns:
            The seconds that it took.

        Raises:
            MachineError: When the server ends, its workers keep dying, or time is up; shows the end of the log.
        """
        start = time.monotonic()
        while (waited := time.monotonic() - start) < timeout:
            if not self.running():
                raise self.failure(f"TorchServe ended while starting, after {waited:.0f} s.")
            if self._loaded():
                return time.monotonic() - start
            if is_hopeless(self._log()):
                raise self.failure("TorchServe's workers cannot load the model.")
            if tick is not None:
                tick(waited)
            time.sleep(0.25)
        raise self.failure(f"TorchServe was not ready after {timeout:.0f} s.")

    def failure(self, problem: str) -> MachineError:
        """An error that shows what ended a worker, or else the end of the server's log."""
        log = self._log()
        why = cause(log)
        told = "a worker ended with" if why else "the log ends with"
        lines = "\n    ".join(why or log.splitlines()[-_LOG_LINES:])
        return MachineError(
            problem,
            found=f"{told}\n    {lines}",
            action=f"read {self.console.parent}; a slow machine may need a longer timeout",
        )

    def _loaded(self) -> bool:
        # Not /ping: it already says "Healthy" while the workers are still loading.
        with contextlib.suppress(OSError, ValueError, KeyError):
            path, token = f"/models/{self.model}", self.token("management")
            answer = client.request("GET", self.ports.management, path, token=token, timeout=5)
            if answer.status == 400:  # a token that lives shorter than a model takes to load
                self.renew("management")
            workers = answer.body[0]["workers"] if answer.status == 200 else []
            ready: int = sum(worker["status"] == "READY" for worker in workers)
            return ready >= self._config.worker_count()
        return False

    def _log(self) -> str:
        files = (self.console.parent / START, self.console)
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files if file.exists())

    def _command(self, java: Path, properties: Path) -> list[str]:
        """TorchServe's front end, as its own launcher starts it, without the launcher's host-wide pid file."""
        package = _torchserve_folder()
        return [
            str(java),
            f"-Dmodel_server_home={package.parent}",
            f"-Djava.io.tmpdir={self._temporary}",
            f"-Dlog4j.configurationFile={self.run / LOG_CONFIG}",
            f"-Xmx{self._config.heap_mb}m",
            *JAVA_FLAGS,
            "-cp",
            f"{package / 'frontend'}/*",
            "org.pytorch.serve.ModelServer",
            "--python",
            sys.executable,
            "-f",
            str(properties),
            "-s",
            str(self._store),
            "-ncs",
        ]

    def _environment(self, java: Path) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return kept | {
            "JAVA_HOME": str(java.parent.parent),
            "TMPDIR": str(self._temporary),
            "TEMP": str(self._temporary),
            "LOG_LOCATION": str(self.run / "logs"),
            "METRICS_LOCATION": str(self.run / "logs"),
            "PYTHONUNBUFFERED": "1",
            # OpenMP's threads wait by spinning; on a busy machine that made one request 15 times slower.
            "OMP_WAIT_POLICY": "PASSIVE",
        }


def free_ports(**fixed: int) -> Ports:
    """Ports that are free on loopback now, except those given."""
    names = [name for name in Ports.model_fields if name not in fixed]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return Ports(**fixed, **{name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)})


def check_ports(ports: Ports) -> None:
    """Refuse ports that something else uses.

    Raises:
        MachineError: Naming the port.
    """
    for name, port in ports.model_dump().items():
        with socket.socket() as one:
            # As the server does: a port in TIME_WAIT after an earlier run is free.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError as error:
                raise MachineError(
                    f"Port {port} ({name.replace('_', ' ')}) cannot be used: {error.strerror}.",
                    expected="a free port",
                    action=f"stop the program that uses it (`ss -ltnp 'sport = :{port}'` shows it), or choose another",
                ) from None


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary directory (0700) for a short run."""
    with tempfile.TemporaryDirectory(prefix="dinomill-serve-") as folder:
        yield Path(folder)


def _socket_folder() -> Path:
    """A private folder with a path short enough for the workers' sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dinomill-ts-"))
    if len(str(folder)) > _MAX_SOCKET_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="dinomill-ts-", dir="/tmp"))
    return folder


def _torchserve_folder() -> Path:
    spec = importlib.util.find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        raise MachineError("TorchServe is not installed.", action="pip install torchserve==0.12.0")
    return Path(spec.submodule_search_locations[0])
