"""A file that one process holds at a time, so that two never write the same place; the system frees it at a kill."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dinomill.errors import DinomillError
from dinomill.storage.atomic import storage_errors

# File systems that know no locks: there the promise cannot be kept, and work goes on without it.
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold a lock while the block runs, once whoever holds it now has freed it: for what takes a moment.

    Args:
        path: The file; made, with its folders, where there is none. Its holder may remove it.

    Raises:
        StorageError: When the file cannot be made.
    """
    descriptor = _taken(path, None)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path, busy: DinomillError) -> Iterator[None]:
    """Hold a lock while the block runs. The file says nothing by being there; only its holder may remove it.

    Args:
        path: The file; made, with its folders, where there is none.
        busy: What is raised when another process holds it; the holder's process id is added to what was found.

    Raises:
        DinomillError: The one given.
        StorageError: When the file cannot be made.
    """
    descriptor = _taken(path, busy)
    try:
        yield
    finally:
        os.close(descriptor)  # which frees it


def _taken(path: Path, busy: DinomillError | None) -> int:
    while True:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not inherited by what is started meanwhile: a server would hold it for as long as it lives. A link that
            # somebody put there is not followed: what it leads to would be emptied.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            if not _lock(descriptor, busy):
                return descriptor
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the one who held it removed the file at its end


def _lock(descriptor: int, busy: DinomillError | None) -> bool:
    """Whether it is held now; False where there are no locks. It is waited for where nobody says what to raise."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _UNKNOWN:
            return False
        if busy is None or error.errno not in _BUSY:
            raise
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        found = f"process {holder}" if holder.isdigit() else "another process"
        busy.found = f"{busy.found}; {found}" if busy.found else found
        raise busy from None
    return True


def holder(path: Path) -> int | None:
    """The process that holds a lock, without trying it: that would be in the way of one who takes it just then.

    Returns:
        None where nobody does, or where the system does not say (it has no /proc/locks).
    """
    try:
        number = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for words in map(str.split, lines):  # 2: FLOCK ADVISORY WRITE <process> <device>:<inode> 0 EOF
        if len(words) == 8 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(number):
            return int(words[4])
    return None
