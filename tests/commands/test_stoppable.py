"""Ctrl-C on a terminal ends a server and all that it started, and shows no traceback."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

# It answers Ctrl-C as MLflow's and Kedro-Viz's servers do, with a traceback, and has a process of its own.
SERVER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
print("ready", flush=True)
time.sleep(600)
"""


def _read_until(terminal: int, text: str | None, seconds: float = 60) -> str:
    shown, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other side has closed
            break
        shown += part
        if not part or (text is not None and text.encode() in shown):
            break
    return shown.decode()


@pytest.mark.parametrize("how", ["keyboard", "SIGTERM"])
def test_told_to_end_it_ends_everything_without_a_traceback(tmp_path: Path, how: str) -> None:
    process, terminal = pty.fork()
    if process == 0:
        command = [sys.executable, "-c", SERVER, str(tmp_path / "pid")]
        os.execv(sys.executable, [sys.executable, "-m", "dinomill.commands.stoppable", *command])
    _read_until(terminal, "ready")
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    if how == "keyboard":
        os.write(terminal, b"\x03")
    else:
        os.kill(process, signal.SIGTERM)
    shown = _read_until(terminal, None)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert "Stopped." in shown and "Traceback" not in shown
    child.wait(timeout=10)


def test_a_server_that_ends_by_itself_says_how() -> None:
    from dinomill.commands.stoppable import run_until_stopped

    assert run_until_stopped([sys.executable, "-c", "raise SystemExit(3)"]) == 3
