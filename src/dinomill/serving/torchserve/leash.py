"""Hold a server on a leash: when the one who started it goes away, however that happens, the server goes too.

Run as a script with a folder to remove afterwards and the server's command line. It starts the server in a session of
its own, waits until its standard input ends (the starter closed it, or died) or the server ends by itself, and then
makes sure that nothing of the server's process group is left. It needs only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.2


def main(scratch: str, command: list[str]) -> int:
    """Run ``command`` until standard input ends, then remove ``scratch``.

    Returns:
        The command's exit status; 0 when it was stopped on request.
    """
    # A Ctrl-C in the terminal is for the starter, which then closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while server.poll() is None and not asked:
            readable, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
            if readable and not os.read(sys.stdin.fileno(), 4096):
                asked.append(0)
        return 0 if asked else server.returncode
    finally:
        _stop(server)
        shutil.rmtree(scratch, ignore_errors=True)


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
    sys.exit(main(sys.argv[1], sys.argv[2:]))
