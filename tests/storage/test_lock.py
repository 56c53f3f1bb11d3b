"""A lock is one process's; it ends with it, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dinomill.errors import InputError, StorageError
from dinomill.storage.lock import held, holder, waited_for

_HOLD = """
import sys, time
from pathlib import Path
from dinomill.errors import InputError
from dinomill.storage.lock import held
with held(Path(sys.argv[1]), InputError("busy")):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="busy") as caught, held(path, InputError("busy", action="wait")):
            pass
        assert f"process {process.pid}" in str(caught.value)
        assert holder(path) == process.pid
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert holder(path) is None
    with held(path, InputError("busy")):
        assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"


def test_the_holder_may_remove_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with held(path, InputError("busy")):
            assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"
            path.unlink()
        assert not path.exists()


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    path = tmp_path / ("v" * 260)
    with pytest.raises(StorageError, match="File name too long") as caught, held(path, InputError("busy")):
        pass
    assert caught.value.action == "choose a shorter name"


def test_where_there_are_no_locks_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    worked = False
    with held(tmp_path / "lock", InputError("busy")):
        worked = True
    assert worked


def test_one_that_is_waited_for_is_had_after_who_has_it(tmp_path: Path) -> None:
    path, seen = tmp_path / "lock", []

    def second() -> None:
        with waited_for(path):
            seen.append("second")

    with waited_for(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        seen.append("first")
        path.unlink()  # its holder may remove it: the next one makes another
    thread.join(30)
    assert seen == ["first", "second"] and path.exists()
