"""Whether a process of this machine is still there."""

from __future__ import annotations

import os


def runs(process: int) -> bool:
    """Whether there is such a process, whosever it is."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no system counts so far
        return False
    except OSError:  # another user's, which may not be signalled
        return True
    return True
