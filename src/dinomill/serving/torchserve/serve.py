"""Serve a package in the foreground: what `dinomill serve` does.

<run>/    where the server runs: its tokens (key_file.json), its configuration and its logs
"""

from __future__ import annotations

import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dinomill.handles import PackageHandle
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.properties import ServerConfig, baked_settings
from dinomill.serving.torchserve.server import TorchServe, free_ports

DEFAULT_PORT = 8080
_READY_SECONDS = 180.0


def serve(
    package: Path,
    *,
    port: int = DEFAULT_PORT,
    run: Path = Path("data/work/serve"),
    config: ServerConfig | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a package until Ctrl-C, SIGTERM or the server's own end, and leave nothing running.

    Args:
        package: The folder that the packaging stage wrote.
        port: Of the predictions; the management and metrics ports are the next two.
        run: Where the server runs.
        config: How it runs; the defaults are safe.
        say: Takes the lines that tell the user where it is.

    Raises:
        InputError: When there is no package in the folder.
        MachineError: No Java, a port in use, or the server does not start.
    """
    handle = PackageHandle.load(package)
    store = package / handle.archive.parent.name
    ports = free_ports(inference=port, management=port + 1, metrics=port + 2)
    with _interruptible(), TorchServe(handle.model, store, run, config or ServerConfig(), ports) as server:
        try:
            say(f"Starting TorchServe with {handle.model}, version {handle.version} …")
            for line in unlike_package(store / handle.archive.name, config or ServerConfig()):
                say(line)
            server.wait_ready(_READY_SECONDS)
            say(_how_to_ask(server))
            while server.running():
                time.sleep(0.2)
        except KeyboardInterrupt:
            say("Stopping …")
            return
        raise server.failure("TorchServe ended by itself.")


def unlike_package(archive: Path, config: ServerConfig) -> list[str]:
    """What is said about settings that the archive was made with and that are others now: they hold for a new one."""
    import yaml

    with zipfile.ZipFile(archive) as file:
        made_with = yaml.safe_load(file.read("model-config.yaml"))["handler"]
    return [
        f"  packaging.server.{name} is {now}, and the package was made with {made_with[name]}: run packaging again."
        for name, now in baked_settings(config).items()
        if name in made_with and made_with[name] != now
    ]


def _how_to_ask(server: TorchServe) -> str:
    ports, keys = server.ports, server.run / client.KEY_FILE
    token = f"import json; print(json.load(open('{keys}'))['inference']['key'])"
    return "\n".join(
        [
            f"Ready: http://127.0.0.1:{ports.inference}/predictions/{server.model}",
            f"  tokens   {keys}",
            f"  logs     {server.console.parent}",
            f"  metrics  http://127.0.0.1:{ports.metrics}/metrics",
            "",
            "Ask it for an embedding:",
            "",
            f'  TOKEN=$({Path(sys.executable).name} -c "{token}")',
            '  curl -H "Authorization: Bearer $TOKEN" -T image.jpg '
            f"http://127.0.0.1:{ports.inference}/predictions/{server.model}",
            "",
            "Ctrl-C stops it.",
        ]
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within the block a SIGTERM ends the server as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Both: a shell's background jobs are started with SIGINT ignored, and Python then leaves it so.
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
