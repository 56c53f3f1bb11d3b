"""Hold a server on a leash: when the one who started it goes away, however that happens, the server goes too.

Run as a script with the paths to remove afterwards, ``--`` and the server's command line. It starts the server in a
session of its own, waits until its standard input ends (the starter closed it, or died) or the server ends by itself,
and then makes sure that nothing of the server's process group is left. Should it be killed itself, Linux kills the
server, whose workers end when it no longer listens. It needs only the standard library.

What the server prints goes through it to its own output, whose file it keeps small: Java prints without end what its
logging has no place for, and nobody else could cut a file that Java holds open.

Other servers and measurements, which need no more than to end with who started them, take `die_with_us` from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

GRACE_SECONDS = 15.0
KEPT_BYTES = 2**20  # of what the server prints: the first half, and the newest up to as much again
_CHUNK = 65536
_MOST_CHUNKS = 16  # taken in a turn: between turns it is seen whether the end has come
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


def main(leftovers: Sequence[str], command: Sequence[str]) -> int:
    """Run ``command`` until standard input ends, then remove files and folders that it leaves.

    Returns:
        The command's exit status; 0 when it was stopped on request.
    """
    # A Ctrl-C in the terminal is for the starter, which then closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_us(),
    )
    printed = Printed(server, sys.stdout.fileno())
    try:
        while server.poll() is None and not asked:
            readable, _, _ = select.select([sys.stdin, *printed.sources], [], [], _POLL_SECONDS)
            if sys.stdin in readable and not os.read(sys.stdin.fileno(), 4096):
                asked.append(0)
            printed.take()
        return 0 if asked else server.returncode
    finally:
        _stop(server, printed.take)
        printed.take()
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                Path(path).unlink()


class Printed:
    """What a server prints, on its way to a file that stays small; anything else than a file gets all of it.

    Args:
        server: Its output is a pipe.
        target: A descriptor to write to.
    """

    def __init__(self, server: subprocess.Popen[bytes], target: int) -> None:
        assert server.stdout is not None, "a server whose output is a pipe"
        self._pipe = server.stdout
        os.set_blocking(self._pipe.fileno(), False)
        self._target = target
        self._bounded = stat.S_ISREG(os.fstat(target).st_mode)
        self.sources = [self._pipe]

    def take(self) -> None:
        """Take what there is, without waiting and not without end; a full pipe would hold the server up."""
        for _ in range(_MOST_CHUNKS):
            if not self.sources:
                return
            try:
                data = os.read(self._pipe.fileno(), _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self.sources.clear()
                return
            with contextlib.suppress(OSError):  # a full disk is no reason to stop serving
                self._write(data)

    def _write(self, data: bytes) -> None:
        if self._bounded and os.fstat(self._target).st_size + len(data) > KEPT_BYTES:
            self._cut()
        os.write(self._target, data)

    def _cut(self) -> None:
        """Keep how it began, and leave out what followed: the newest is written behind it again."""
        os.ftruncate(self._target, min(os.fstat(self._target).st_size, KEPT_BYTES // 2))
        os.lseek(self._target, 0, os.SEEK_END)
        os.write(self._target, b"\n[what was printed here is left out: the file is kept small]\n")


def killed_with_parent() -> Callable[[], object] | None:
    """What asks Linux to kill whoever calls it when its parent ends. None where there is no such call."""
    if sys.platform != "linux":
        return None
    call = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: call(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def die_with_us() -> Callable[[], None] | None:
    """What a process does first that is not to outlive us (as its `preexec_fn`). None where there is no such call."""
    ask, us = killed_with_parent(), os.getpid()
    if ask is None:
        return None

    def first() -> None:
        ask()
        if os.getppid() != us:  # killed in between: too late to be told
            os._exit(1)

    return first


def _stop(server: subprocess.Popen[bytes], meanwhile: Callable[[], None] = lambda: None) -> None:
    """End the server's process group: politely, then after a grace period by force.

    Args:
        server: Its process.
        meanwhile: Called while it ends: a server that cannot print does not end politely.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        meanwhile()
        server.poll()  # reaps the leader, which would otherwise keep the group alive as a zombie
        try:
            os.killpg(server.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(_POLL_SECONDS / 4)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    _end = sys.argv.index("--")
    sys.exit(main(sys.argv[1:_end], sys.argv[_end + 1 :]))
