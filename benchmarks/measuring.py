"""What the benchmarks share: command line, CPU-seconds, processes that are asked line by line, table, line of JSON.

Every script takes ``--smoke``: all that it does, in small, in seconds, without network. Such figures say nothing but
that it runs; their line of JSON says ``"smoke": true``, and tests/benchmarks runs every script so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

Result = TypeVar("Result")


def command_line(description: str | None, smoke: str) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring as it stands and knows ``--smoke``.

    Args:
        description: The docstring.
        smoke: What is done in small.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help=f"only see whether it runs: {smoke}")
    return parser


def cpu_seconds() -> float:
    """Of this process and all below it, ended ones included."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user, system, and those of the children that were waited for
    return total


class Spent(NamedTuple):
    """What some work took."""

    wall: float  # seconds
    cpu: float  # CPU-seconds, of processes below this one too


def timed(work: Callable[[], Result]) -> tuple[Result, Spent]:
    """Do some work; what it gave and what it took."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = work()
    return result, Spent(time.perf_counter() - wall, cpu_seconds() - cpu)


def timed_here(work: Callable[[], Result]) -> tuple[Result, float]:
    """As ``timed``, in the CPU-seconds of this process alone, which are counted a thousand times finer."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


class PeerFailedError(Exception):
    """A peer's process that ended before it answered; the text is the end of what it said."""


class Peer:
    """A process that says a line of JSON when it is ready, and one for every line that it is sent.

    Args:
        name: What it is called in tables.
        command: What to start.
        cwd: Where.
        log: A file for what it says besides.

    Raises:
        PeerFailedError: When it ends instead of getting ready.
    """

    def __init__(self, name: str, command: Sequence[str], *, cwd: Path | None = None, log: Path | None = None) -> None:
        self.name = name
        self._log = log or Path(tempfile.mkstemp(suffix=".log")[1])
        self._keeps_log = log is not None
        # Threads that spin while another one works would be counted against it.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
        with self._log.open("w") as messages:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
            )
        self._answer()

    def ask(self) -> dict[str, Any]:
        """Its answer to the next line."""
        assert self._process.stdin is not None
        self._process.stdin.write("next\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End its process, which ends by itself when nothing can be asked any more."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=60)
        if not self._keeps_log:
            self._log.unlink(missing_ok=True)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(timeout=60)
            said = self._log.read_text(errors="replace").strip()
            raise PeerFailedError(f"{self.name} ended early; the end of its messages:\n{said[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Table:
    """A table that is printed row by row, as the figures come: names at the left, figures at the right."""

    def __init__(self, *heads: str, name: int = 24) -> None:
        self._name = name
        self._widths = [max(len(head) + 2, 9) for head in heads]
        self.row("", *heads)

    def row(self, name: str, *cells: str) -> None:
        """Print a row."""
        shown = "".join(f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True))
        print(f"{name:<{self._name}}{shown}", flush=True)


def finish(figures: Mapping[str, Any], *, smoke: bool) -> None:
    """Print the figures as the last line, JSON."""
    sys.stderr.flush()
    print(json.dumps({**figures, "smoke": True} if smoke else figures), flush=True)
