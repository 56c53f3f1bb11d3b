"""A training process: ``python -m dinomill.training.worker <job.json>``, alone or under ``torch.distributed.run``.

It attaches to the MLflow run by id (environment), holds a lock on its work folder, stops when the process that launched
it is gone, and leaves word of a failure for that process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from dinomill.errors import DinomillError, Interrupted, MachineError
from dinomill.execution.launch import LAUNCHER_PID, record_failure
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import world
from dinomill.training.trainer import train

# A process that was told to stop needs so long, at most, to save its state and give the folder free.
_LOCK_SECONDS = 150


def main(arguments: list[str]) -> int:
    """Run a job.

    Args:
        arguments: The path of the job file.

    Returns:
        The exit code: 0, 2 for an error of the user's, 75 when it was told to stop (0 under torchrun, which would
        print a traceback for it; the launching process reads the message that is left).
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if len(arguments) != 1:
        print("usage: python -m dinomill.training.worker <job.json>", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    rank = int(os.environ.get("RANK", "0"))
    watch_launcher()
    try:
        job = TrainingJob.load(path)
        # Rank 0 alone writes, hence it alone needs the lock; the others wait for it where the processes meet.
        lock = locked(job.work / "lock") if rank == 0 else contextlib.nullcontext()
        with lock, world(job.runtime.parallel, job.runtime.device) as here:
            train(job, here)
    except DinomillError as error:
        if LAUNCHER_PID not in os.environ and rank == 0:
            print(error, file=sys.stderr)
        code = record_failure(path.parent, rank, error)
        return 0 if isinstance(error, Interrupted) and "TORCHELASTIC_RUN_ID" in os.environ else code
    return 0


def watch_launcher() -> None:
    """Stop as for SIGTERM when the process that launched this one dies without a word (SIGKILL, out of memory)."""
    pid = os.environ.get(LAUNCHER_PID)
    if pid is None:
        return
    try:
        launcher = psutil.Process(int(pid))
    except psutil.NoSuchProcess:
        os.kill(os.getpid(), signal.SIGTERM)
        return

    def watch() -> None:
        while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="dinomill-launcher").start()


@contextlib.contextmanager
def locked(path: Path, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the work folder for this process; the system releases it when the process ends, however it ends.

    Raises:
        MachineError: When another process still holds it after some time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with path.open("a") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MachineError(
                        f"Another process trains in {path.parent}.",
                        action="wait until it has ended, or stop it: it saves its state first",
                    ) from None
                if not told:
                    print(f"waiting for the process that still works in {path.parent}", file=sys.stderr)
                    told = True
                time.sleep(0.5)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
