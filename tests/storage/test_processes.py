from __future__ import annotations

import os
import subprocess
import sys

from dinomill.storage.processes import runs


def test_a_process_is_there_until_it_has_ended() -> None:
    assert runs(os.getpid())
    assert runs(1)  # another user's, on most machines
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not runs(ended.pid)
    assert not runs(10**30)
