from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dinomill.serving import leash

# A server with a worker of its own; both say who they are.
_SERVER = """
import os, subprocess, sys, time
if len(sys.argv) > 2:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {worker.pid} .")
time.sleep(120)
"""


def _start(folder: Path, *extra: str) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    script, pids = folder / "server.py", folder / "pids"
    (folder / "scratch").mkdir()
    (folder / "keys").write_text("secret")
    script.write_text(_SERVER)
    process = subprocess.Popen(
        [
            sys.executable,
            "-I",
            leash.__file__,
            str(folder / "scratch"),
            str(folder / "keys"),
            "--",
            sys.executable,
            str(script),
            str(pids),
            *extra,
        ],
        stdin=subprocess.PIPE,
    )
    deadline = time.monotonic() + 20
    while not (pids.exists() and pids.read_text().endswith(".")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, [psutil.Process(int(pid)) for pid in pids.read_text().split()[:2]]


def test_the_server_and_its_workers_end_with_the_input(tmp_path: Path) -> None:
    process, servers = _start(tmp_path)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    assert not (tmp_path / "scratch").exists()
    assert not (tmp_path / "keys").exists()
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in servers)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a process with its parent; others do not")
def test_the_server_ends_when_the_leash_is_killed(tmp_path: Path) -> None:
    process, servers = _start(tmp_path)
    process.kill()
    process.wait(20)
    gone, _ = psutil.wait_procs(servers[:1], timeout=10)
    assert gone
    for one in servers[1:]:  # TorchServe's workers end when it does; this one knows nothing of it
        one.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_leash_that_is_told_to_end_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    process, servers = _start(tmp_path)
    process.send_signal(number)
    assert process.wait(20) == 0
    assert not (tmp_path / "keys").exists()
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in servers)


def test_ctrl_c_in_the_terminal_does_not_cut_the_leash(tmp_path: Path) -> None:
    process, servers = _start(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    assert all(one.is_running() for one in servers)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)


def test_the_servers_own_end_gives_its_status(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-I", leash.__file__, "--", sys.executable, "-c", "raise SystemExit(7)"],
        stdin=subprocess.PIPE,
        timeout=20,
        check=False,
    )
    # The input of `run` ends at once, hence either the request to stop or the server's own status comes first.
    assert process.returncode in (0, 7)


@pytest.mark.parametrize("end", ["by itself", "when it is told"])
def test_what_the_server_prints_is_kept_and_its_file_stays_small(tmp_path: Path, end: str) -> None:
    line = 'nvidia-smi not available or failed: Cannot run program "nvidia-smi": error=2, No such file or directory'
    script = (
        f"import sys, time\nprint('began', flush=True)\nfor _ in range(60000): print({line!r})\n"
        "print('newest', flush=True)\n" + ("" if end == "by itself" else "time.sleep(120)\n")
    )
    log = tmp_path / "start.log"
    with log.open("wb") as target:
        process = subprocess.Popen(
            [sys.executable, "-I", leash.__file__, "--", sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=target,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None
    largest, deadline = 0, time.monotonic() + 60
    while not log.read_bytes().endswith(b"newest\n"):
        largest = max(largest, log.stat().st_size)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    if end == "when it is told":
        assert process.poll() is None
    process.stdin.close()
    assert process.wait(20) == 0
    text = log.read_text()
    assert len(line) * 60000 > 5 * leash.KEPT_BYTES
    assert max(largest, len(text)) <= leash.KEPT_BYTES + 200
    assert text.startswith(f"began\n{line}\n")
    assert text.endswith(f"{line}\nnewest\n")
    assert text.count("is left out") == 1


def test_a_server_that_prints_without_end_does_not_hold_the_leash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def read(_descriptor: int, size: int) -> bytes:
        reads.append(size)
        assert len(reads) < 1000
        return b"x" * size

    with (tmp_path / "log").open("wb") as target:
        server = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
        printed = leash.Printed(server, target.fileno())
        monkeypatch.setattr(leash.os, "read", read)
        printed.take()
        monkeypatch.undo()
        server.communicate()
    assert len(reads) == 16
    assert printed.sources


def test_a_server_that_ignores_the_request_is_ended_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leash, "GRACE_SECONDS", 0.5)
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout is not None
    server.stdout.readline()
    leash._stop(server)
    assert server.wait(5) == -signal.SIGKILL
