"""The directory where a server runs: private, and one server's at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dinomill.errors import MachineError

LOCK = ".lock"


def take_folder(run: Path, another: str = "dinomill serve --port 9000") -> int:
    """Make the directory private and take it for this server.

    Args:
        run: The directory.
        another: The command that starts one on another port, for who finds this one taken.

    Returns:
        A descriptor that holds the lock: until it is closed everywhere, also in processes that inherited it.

    Raises:
        MachineError: When a server runs there.
    """
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    run.chmod(0o700)
    lock = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 20).decode(errors="replace").strip()
        os.close(lock)
        raise MachineError(
            f"A server runs in {run} already.",
            found=f"started by process {owner or '(unknown)'}",
            action=f"stop it (Ctrl-C where it runs), or start this one on another port: {another}",
        ) from None
    except OSError:  # a file system without locks: as it was before there were any
        pass
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def is_taken(run: Path) -> bool:
    """Whether a server runs there."""
    if not (run / LOCK).exists():
        return False
    lock = os.open(run / LOCK, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False
