"""Serve a LitServe folder: LitServe runs workers and queue, the gateway answers clients in LitServe's own process.

<run>/                 private; one server's at a time
<run>/tokens.json      the clients' tokens; stays
<run>/serving.json     where it listens and what it serves; stays, `dinomill lineage` reads it
<run>/open.html        opens the page with its token; removed at the end
<run>/logs/            requests.log: a line a request
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.errors import DinomillError, MachineError
from dinomill.serving.gateway.listen import LOOPBACK
from dinomill.serving.gateway.say import how_to_ask, note_serving, print_now, write_opener
from dinomill.serving.leash import killed_with_parent
from dinomill.serving.litserve.settings import RUN, Settings
from dinomill.serving.processes import is_hidden
from dinomill.serving.torchserve.run_folder import take_folder

if TYPE_CHECKING:
    from litserve import LitServer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from dinomill.serving.litserve.api import Queue

HOSTS = ("127.0.0.1", "0.0.0.0", "::")  # LitServe takes no others
_END_SECONDS = 10.0
_GPUS = "import torch; print(torch.cuda.device_count())"


def main(folder: Path, arguments: list[str] | None = None) -> int:
    """Serve the folder until Ctrl-C or SIGTERM; the exit code."""
    parser = argparse.ArgumentParser(prog="server.py", description="Serves the model in this folder with LitServe.")
    parser.add_argument("--host", default=HOSTS[0], choices=HOSTS, help="anything but loopback needs TLS in front")
    parser.add_argument("--port", default=8080, type=int, help="from 1024 to 65535")
    parser.add_argument("--run", default=folder / RUN, type=Path, help="where tokens and logs lie")
    told = parser.parse_args(arguments)
    # Among them are LitServe's own keys, which would ask clients for a second token.
    for name in filter(is_hidden, list(os.environ)):
        del os.environ[name]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning take the processors from others
    try:
        serve(folder, host=told.host, port=told.port, run=told.run.absolute())
    except DinomillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def serve(folder: Path, *, host: str, port: int, run: Path) -> None:
    """Serve the folder until Ctrl-C or SIGTERM, and leave nothing running.

    Raises:
        ConfigError: When its settings are wrong.
        MachineError: When the port or the run folder is in use, or no worker can load the model.
    """
    settings = Settings.read(folder)
    lock = take_folder(run, "python server.py --port 9000 --run FOLDER")
    try:
        _require_free(host, port)
        for number in (signal.SIGTERM, signal.SIGINT):  # LitServe would end at the first and leave its processes
            signal.signal(number, _Ending(os.getpid()))
        # What is forked from this process ends with it: LitServe's queue and its HTTP process. Workers are not forked,
        # and look for themselves.
        if (ask := killed_with_parent()) is not None:
            os.register_at_fork(after_in_child=ask)
        try:
            server, options = _server(folder, settings, run, port)
            server.run(host=host, port=port, num_api_servers=1, log_level="warning", **options)
        except KeyboardInterrupt:
            print_now("Stopping …")
        except RuntimeError as error:
            raise MachineError(
                "No worker can load the model.", found=str(error), action="read what the worker said above"
            ) from None
    finally:
        _end_processes()
        (run / "open.html").unlink(missing_ok=True)
        os.close(lock)


def _server(folder: Path, settings: Settings, run: Path, port: int) -> tuple[LitServer, dict[str, Any]]:
    """LitServe, and what it is to tell uvicorn."""
    from litserve import LitServer
    from starlette.middleware.gzip import GZipMiddleware

    from dinomill.serving.gateway.protocol import bounded
    from dinomill.serving.litserve.api import EmbeddingAPI

    devices = _gpus()
    workers = devices or settings.worker_count()
    api = EmbeddingAPI(folder, settings)
    server = LitServer(
        api,
        accelerator="cuda" if devices else "cpu",
        devices=devices or 1,
        workers_per_device=1 if devices else workers,
        timeout=settings.gateway.answer_seconds,
        middlewares=[(Front, {"queue": api.spec, "settings": settings, "workers": workers, "run": run, "port": port})],
        disable_openapi_url=True,
        restart_workers=True,
    )
    # LitServe compresses every answer for whoever would take that; numbers hardly get smaller, and it takes longer than
    # a small network.
    server.app.user_middleware = [one for one in server.app.user_middleware if one.cls is not GZipMiddleware]
    options = {
        "generate_client_file": False,
        "http": bounded(settings.gateway),
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": 30,
    }
    return server, options


class Front:
    """What LitServe's HTTP process runs: its own beginning and end, and between them the gateway.

    Args:
        app: LitServe's application; none of its addresses is reached.
        queue: Of the workers.
        settings: Of the folder.
        workers: How many there should be.
        run: Where tokens and logs lie.
        port: On which it listens.
    """

    def __init__(self, app: ASGIApp, *, queue: Queue, settings: Settings, workers: int, run: Path, port: int) -> None:
        from dinomill.serving.gateway.app import Gateway
        from dinomill.serving.gateway.fleet import Fleet, Member
        from dinomill.serving.gateway.requestlog import RequestLog
        from dinomill.serving.gateway.tokens import ClientTokens
        from dinomill.serving.litserve.queued import Queued

        self._app, self._run, self._port = app, run, port
        self._tokens = ClientTokens(run, 60 * settings.gateway.overlap_minutes)
        self._upstream = upstream = Queued(queue, settings, workers)
        fleet = Fleet(lambda _: upstream, settings.gateway)
        fleet.current = Member(upstream, run)
        self._gateway = Gateway(fleet, self._tokens, RequestLog(run / "logs"), settings.gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or begin and end."""
        if scope["type"] != "lifespan":
            await self._gateway(scope, receive, send)
            return

        async def told(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._say()

        await self._app(scope, receive, told)

    def _say(self) -> None:
        note_serving(self._run, f"http://{LOOPBACK}:{self._port}", self._upstream)
        write_opener(self._run, self._port, self._tokens.current)
        self._tokens.tell(lambda token: write_opener(self._run, self._port, token))
        print_now(how_to_ask(self._run, self._port, self._upstream.model, self._upstream.version, behind=False))


class _Ending:
    """What a signal does: LitServe's first process is interrupted, those that were forked from it end quietly.

    Args:
        first: The first process.
    """

    def __init__(self, first: int) -> None:
        self._first = first

    def __call__(self, *_: object) -> None:
        if os.getpid() == self._first:
            raise KeyboardInterrupt
        sys.exit(0)


def _gpus() -> int:
    """GPUs that PyTorch can compute on here, as a process of its own counts them: PyTorch would stay in this one."""
    asked = subprocess.run([sys.executable, "-c", _GPUS], capture_output=True, text=True, check=False)
    said = asked.stdout.strip()
    return int(said) if asked.returncode == 0 and said.isdigit() else 0  # without PyTorch, workers say what is missing


def _end_processes() -> None:
    """LitServe leaves its workers where it fails or is interrupted while they start, and Python would wait for them."""
    left = multiprocessing.active_children()
    for process in left:
        process.terminate()
    until = time.monotonic() + _END_SECONDS
    for process in left:
        process.join(max(0.1, until - time.monotonic()))
        if process.is_alive():
            process.kill()


def _require_free(host: str, port: int) -> None:
    if not 1024 <= port <= 65535:
        raise MachineError("LitServe takes no such port.", found=str(port), expected="1024 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            raise MachineError(
                f"Port {port} cannot be used: {error.strerror}.",
                expected="a free port",
                action="stop the program that uses it, or choose another: --port 9000",
            ) from None
