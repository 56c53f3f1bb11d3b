from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.errors import MachineError
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.run_folder import take_folder
from dinomill.serving.torchserve.server import TorchServe, free_ports

_TAKE = """
import sys, time
from pathlib import Path
from dinomill.serving.torchserve.run_folder import take_folder
take_folder(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(60)
"""


def test_a_second_server_leaves_the_first_ones_keys_and_log(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", _TAKE, str(run)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"taken\n"
        (run / "logs").mkdir()
        files = [run / client.KEY_FILE, run / "logs" / "console.log", run / "config.properties"]
        for file in files:
            file.write_text("the first one's")
        with pytest.raises(MachineError, match="already") as caught:
            TorchServe("mill", tmp_path, run, ServerConfig(), free_ports()).__enter__()
        assert f"process {first.pid}" in str(caught.value)
        assert [file.read_text() for file in files] == ["the first one's"] * 3
        first.send_signal(signal.SIGKILL)
    os.close(take_folder(run))  # what is killed leaves no lock
    assert stat.S_IMODE(run.stat().st_mode) == 0o700


def test_the_lock_holds_as_long_as_the_leash(tmp_path: Path) -> None:
    """A starter that was killed is gone before its server is."""
    lock = take_folder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,)) as leash:
        os.close(lock)
        with pytest.raises(MachineError, match=r"already(.|\n)*another port: dinomill serve --port 9000"):
            take_folder(tmp_path)
        with pytest.raises(MachineError, match=r"another port: python server\.py"):
            take_folder(tmp_path, "python server.py")
        assert leash.stdin is not None
        leash.stdin.write(b"\n")
        leash.stdin.close()
    os.close(take_folder(tmp_path))
