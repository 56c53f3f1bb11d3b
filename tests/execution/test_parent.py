"""A worker of any start method ends with the process that started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

_PARENT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from dinomill.execution.parent import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, mp_context=get_context(sys.argv[1]), initializer=end_with_parent)
    list(pool.map(abs, range(8)))
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_idle_workers_end_when_their_parent_is_killed(tmp_path: Path, method: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert family
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert len(gone) == len(family)
