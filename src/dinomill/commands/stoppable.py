"""Servers of other projects that Ctrl-C ends without a traceback: ``python -m dinomill.commands.stoppable PROGRAM …``.

Ctrl-C reaches every process of a terminal's group at once, and MLflow's and Kedro-Viz's answer it with tracebacks of
whatever they were waiting for. Here the server has a group of its own; what ends this process ends that group with a
SIGTERM, which they take as the order that it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

_GRACE_SECONDS = 20.0


def run_until_stopped(command: Sequence[str]) -> int:
    """Run a server until it ends, or this process is told to (Ctrl-C, SIGTERM, a terminal that closes).

    Returns:
        Its exit code; 0 when it was told to end.
    """
    told = False

    def tell(_number: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = True
        _signal_group(server, signal.SIGTERM)

    with subprocess.Popen(list(command), start_new_session=True) as server:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, tell) for number in numbers}
        try:
            while (code := _wait(server, _GRACE_SECONDS if told else 1.0)) is None:
                if told:
                    _signal_group(server, signal.SIGKILL)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            _signal_group(server, signal.SIGTERM)  # what the server has started and left
    if told:
        print("\nStopped.", flush=True)
    return 0 if told else code


def _wait(server: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return server.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _signal_group(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, number)


if __name__ == "__main__":
    sys.exit(run_until_stopped(sys.argv[1:]))
