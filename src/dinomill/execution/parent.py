"""Worker processes that do not outlive the process that they work for."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """To be called in a worker of `multiprocessing`: it ends at once when its parent does, however that ends.

    A parent that is killed cannot end its workers: they would wait for its next task for ever, and keep their memory.
    """
    threading.Thread(target=_wait_and_end, name="end with parent", daemon=True).start()


def _wait_and_end() -> None:
    if (parent := parent_process()) is not None:
        parent.join()  # of a pipe that the system closes
        os._exit(1)  # results are written whole or not at all
