"""The server of a trial, as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

_STARTS = """
import sys, time
from pathlib import Path
from dinomill.serving.litserve.process import LitServe
with LitServe(Path(sys.argv[1]), Path(sys.argv[1], "run"), 9999) as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""


def test_a_server_ends_with_the_trial_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("import time; time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", _STARTS, str(tmp_path)], stdout=subprocess.PIPE) as trial:
        assert trial.stdout is not None
        server = psutil.Process(int(trial.stdout.readline()))
        trial.kill()
    try:
        server.wait(10)
    finally:
        if server.is_running():
            server.kill()
