"""The worker's process: its lock, and what it looks after."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dinomill.errors import MachineError
from dinomill.training.worker import is_gone, locked


def test_a_work_folder_is_held_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        locked(tmp_path / "work" / "lock"),
        pytest.raises(MachineError, match="Another process trains in"),
        locked(tmp_path / "work" / "lock", seconds=0.6),
    ):
        pass
    assert "waiting for the process that still works in" in capsys.readouterr().err
    with locked(tmp_path / "work" / "lock", seconds=0):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_does_not_stop_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(number, "as a mount without its lock daemon answers")

    monkeypatch.setattr(fcntl, "flock", flock)
    entered = False
    with locked(tmp_path / "lock", seconds=0):
        entered = True
    assert entered


def test_a_lock_that_another_machine_holds_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.EACCES, "NFS says so of a lock that is held")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(MachineError), locked(tmp_path / "lock", seconds=0):
        pass


def test_a_process_that_ended_is_gone_also_when_nobody_has_asked_for_its_code() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = psutil.Process(process.pid)
    assert not is_gone(seen)
    process.kill()
    while seen.is_running() and seen.status() != psutil.STATUS_ZOMBIE:
        pass
    assert is_gone(seen)
    process.wait()
    assert is_gone(seen)
