"""Hold a server on a leash: when the one who started it goes away, however that happens, the server goes too.

Run as a script with the paths to remove afterwards, ``--`` and the server's command line. It starts the server in a
session of its own, waits until its standard input ends (the starter closed it, or died) or the server ends by itself,
and then makes sure that nothing of the server's process group is left. Should it be killed itself, Linux kills the
server, whose workers end when it no longer listens. It needs only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

GRACE_SECONDS = 15.0
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
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_us())
    try:
        while server.poll() is None and not asked:
            readable, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
            if readable and not os.read(sys.stdin.fileno(), 4096):
                asked.append(0)
        return 0 if asked else server.returncode
    finally:
        _stop(server)
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                Path(path).unlink()


def _die_with_us() -> Callable[[], None] | None:
    """What the server does first: it asks Linux to be killed when we are. None where there is no such call."""
    if sys.platform != "linux":
        return None
    call, leash = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        call(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != leash:  # killed in between: too late to be told
            os._exit(1)

    return ask


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server's process group: politely, then after a grace period by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
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
