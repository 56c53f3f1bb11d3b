"""Serve a package in the foreground: the gateway on its port, and a model server behind it.

<run>/                 private; one gateway's at a time
<run>/tokens.json      the clients' tokens; stays
<run>/serving.json     where it listens and what it serves; stays, `dinomill lineage` reads it
<run>/open.html        opens the page with its token; removed at the end
<run>/logs/            requests.log: a line a request; gateway.log: what went wrong
<run>/server-1, -2 …   where servers behind run
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import uvicorn

from dinomill.errors import DinomillError, Interrupted, MachineError, StorageError
from dinomill.handles import PackageHandle
from dinomill.serving.gateway.app import Gateway
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.find import Find, find_package
from dinomill.serving.gateway.fleet import Fleet
from dinomill.serving.gateway.listen import LOOPBACK, listening, reached_at
from dinomill.serving.gateway.protocol import bounded
from dinomill.serving.gateway.requestlog import RequestLog
from dinomill.serving.gateway.say import how_to_ask, note_serving, print_now, write_opener
from dinomill.serving.gateway.tokens import ClientTokens
from dinomill.serving.gateway.upstream import Upstream
from dinomill.serving.torchserve.behind import TorchServeBehind, unlike_package
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.run_folder import is_taken, take_folder
from dinomill.serving.torchserve.together import require_together

DEFAULT_PORT = 8080
_SLOTS = 4  # two are in use while one server takes over; more when a killed gateway's server has not yet ended

Configured = Callable[[Path], ServerConfig]


def serve(
    find: Path | Find,
    *,
    host: str = LOOPBACK,
    port: int = DEFAULT_PORT,
    run: Path = Path("data/work/serve"),
    config: ServerConfig | Configured | None = None,
    gateway: GatewayConfig | None = None,
    follow: float | None = None,
    say: Callable[[str], None] = print_now,
    browser: bool = False,
    command: str = "dinomill serve",
) -> None:
    """Serve a package until Ctrl-C or SIGTERM, answer what was asked until then, and leave nothing running.

    SIGHUP looks whether there is another package, which then takes over without a request that fails. SIGUSR1 renews
    the clients' token.

    Args:
        find: The folder that the packaging stage wrote, or what finds (and fetches) the one to serve now.
        host: The address to listen on, of IPv4 or IPv6. Anything but loopback needs TLS in front.
        port: The gateway's. The server behind takes ports that are free.
        run: Where it runs.
        config: How the server behind runs, or what says it of a package; the defaults are safe.
        gateway: How clients are treated.
        follow: Look for another package every so many seconds; None: at SIGHUP alone.
        say: Takes the lines that tell the user where it is; by default they are printed at once, into a file too.
        browser: Open the page.
        command: What the user typed, less the port: it is shown where another port helps.

    Raises:
        InputError: When there is no package in the folder, or it is damaged.
        MachineError: No Java, a port in use, or the server does not start.
    """
    found: Find = (lambda _: find) if isinstance(find, Path) else find
    fixed = config or ServerConfig()
    configured: Configured = (lambda _: fixed) if isinstance(fixed, ServerConfig) else fixed
    elsewhere = f"{command} --port 9000"
    lock = take_folder(run, elsewhere)
    try:
        with listening(host, port, elsewhere) as listener, _logging(run / "logs"):
            front = _Front(found, run.absolute(), configured, gateway or GatewayConfig(), say)
            with asyncio.Runner() as runner:
                runner.run(front.run(listener, reached_at(host), follow, browser))
    finally:
        os.close(lock)


class _Front:
    """Everything that runs in the gateway's loop."""

    def __init__(
        self, find: Find, run: Path, config: Configured, gateway: GatewayConfig, say: Callable[[str], None]
    ) -> None:
        self._find, self._run, self._config, self._gateway, self._say = find, run, config, gateway, say
        self._ended = asyncio.Event()
        self._look = asyncio.Event()
        self._refused = ""

    async def run(self, listener: socket.socket, host: str, follow: float | None, browser: bool) -> None:
        """Serve until told to stop."""
        self._host, self._port = host, listener.getsockname()[1]
        self._tokens = ClientTokens(self._run, 60 * self._gateway.overlap_minutes)
        log = RequestLog(self._run / "logs")
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        options = {"auto_decompress": False, "trust_env": False, "cookie_jar": aiohttp.DummyCookieJar()}
        async with aiohttp.ClientSession(connector=connector, **options) as session:  # type: ignore[arg-type]
            self._fleet = Fleet(lambda package: self._behind(package, session), self._gateway, self._say, self._note)
            app = Gateway(self._fleet, self._tokens, log, self._gateway)
            server = _server(app, self._gateway)
            self._listen_to_signals(server)
            front = asyncio.create_task(server.serve([listener]))
            try:
                await self._until_ended(front, follow, browser)
            except Interrupted:
                waiting = len(server.server_state.tasks)
                self._say(
                    f"Stopping, with {waiting} to answer first; once more: at once …" if waiting else "Stopping …"
                )
            finally:
                server.should_exit = True
                await asyncio.gather(front, return_exceptions=True)
                await self._fleet.close()
                log.close()
                (self._run / "open.html").unlink(missing_ok=True)

    async def _until_ended(self, front: asyncio.Task[None], follow: float | None, browser: bool) -> None:
        ended = asyncio.create_task(self._ended.wait())
        await self._first(ended)
        self._note()
        self._write_opener(self._tokens.current)
        self._tokens.tell(self._write_opener)
        member = self._fleet.current
        assert member is not None
        model, version = member.upstream.model, member.upstream.version
        self._say(how_to_ask(self._run, self._port, model, version, host=self._host))
        if browser:
            _open(self._run / "open.html")
        tasks = [asyncio.create_task(self._fleet.watch()), asyncio.create_task(self._follow(follow))]
        try:
            done, _ = await asyncio.wait([ended, front, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise Interrupted("Told to stop.")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first(self, ended: asyncio.Task[bool]) -> None:
        """Start the first server, unless told to stop."""
        package = await find_package(self._find, self._ended)
        handle = PackageHandle.load(package)
        self._say(f"Starting TorchServe with {handle.model}, version {handle.version} …")
        for line in unlike_package(package / handle.archive.parent.name / handle.archive.name, self._config(package)):
            self._say(line)
        starting = asyncio.create_task(self._fleet.swap(package))
        await asyncio.wait([ended, starting], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            self._fleet.interrupt()
        await starting

    async def _follow(self, seconds: float | None) -> None:
        """Look for another package: at SIGHUP, and every so many seconds."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), seconds)
            self._look.clear()
            try:
                await self._look_once()
            except Interrupted:
                return
            except DinomillError as error:
                self._complain("The new package is not served; the one before it goes on.", error)

    async def _look_once(self) -> None:
        member = self._fleet.current
        assert member is not None
        try:
            package = await find_package(self._find, self._ended)
            handle = PackageHandle.load(package)
        except Interrupted:
            raise
        except DinomillError as error:
            going_on = f"version {member.upstream.version} goes on"
            self._complain(f"It cannot be seen which package is meant now, or it cannot be had; {going_on}.", error)
            return
        if handle.archive_sha256 == member.upstream.archive_sha256:
            if self._refused:
                self._refused = ""
                self._say(f"Version {member.upstream.version} is the one that is meant.")
            return
        self._say(f"Version {handle.version} is there: it takes over when it answers …")
        served = await self._fleet.swap(package)
        self._refused = ""
        self._note()
        self._say(f"Version {served.version} answers.")

    def _complain(self, problem: str, error: DinomillError) -> None:
        if str(error) != self._refused:  # once, not at every look
            self._refused = str(error)
            self._say(f"{problem}\n{error}")

    def _note(self) -> None:
        member = self._fleet.current
        assert member is not None
        try:
            archive = PackageHandle.load(member.package).archive
            place = member.package / archive.parent.name / archive.name
            note_serving(self._run, f"http://{self._host}:{self._port}", member.upstream, place)
        except DinomillError as error:  # who asks is answered all the same
            self._say(f"It could not be written down what is served; `dinomill lineage` does not know.\n{error}")

    def _write_opener(self, token: str) -> None:
        write_opener(self._run, self._port, token, host=self._host)

    def _behind(self, package: Path, session: aiohttp.ClientSession) -> Upstream:
        for number in range(1, _SLOTS + 1):
            slot = self._run / f"server-{number}"
            if not is_taken(slot):
                config = self._config(package)
                require_together(config, self._gateway)
                return TorchServeBehind(package, slot, config, session)
        raise MachineError(
            f"Servers of before still run in {self._run}.", action="wait until they have ended, some 15 seconds"
        )

    def _listen_to_signals(self, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            server.force_exit = self._ended.is_set()  # told twice: what was asked is not waited for
            self._ended.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        loop.add_signal_handler(signal.SIGHUP, self._look.set)
        loop.add_signal_handler(signal.SIGUSR1, self._renew)

    def _renew(self) -> None:
        try:
            self._tokens.renew()
        except (StorageError, OSError) as error:
            self._say(f"The clients' token was not renewed, and the one before it stays valid.\n{error}")
            return
        self._say("The clients' token was renewed.")


class _Server(uvicorn.Server):
    """Uvicorn's server, without hands on signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: Gateway, config: GatewayConfig) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            http=bounded(config),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=math.ceil(config.drain_seconds),
        )
    )


@contextlib.contextmanager
def _logging(folder: Path) -> Iterator[None]:
    """Within the block, what goes wrong in the gateway is written down, and not printed over the user's lines."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        folder / "gateway.log", maxBytes=16 * 2**20, backupCount=2, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("dinomill.serving", "uvicorn", "asyncio", "aiohttp")]
    before = [(one.propagate, list(one.handlers)) for one in loggers]
    for one in loggers:
        one.propagate, one.handlers = False, [handler]
    try:
        yield
    finally:
        for one, (propagate, handlers) in zip(loggers, before, strict=True):
            one.propagate, one.handlers = propagate, handlers
        handler.close()


def _open(file: Path) -> None:
    import webbrowser

    webbrowser.open(file.as_uri())
