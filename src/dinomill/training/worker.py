"""A training process: ``python -m dinomill.training.worker <job.json>``, alone or under ``torch.distributed.run``.

It attaches to the MLflow run by id (environment), holds a lock on its work folder, stops when the process that launched
it is gone, and leaves word of a failure for that process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil

from dinomill import tracking
from dinomill.errors import DinomillError, Interrupted, MachineError
from dinomill.execution.launch import LAUNCHER_PID, forget_failure, record_failure
from dinomill.storage.lock import held
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import world
from dinomill.training.trainer import train

log = logging.getLogger(__name__)

# A process that was told to stop needs so long, at most, to save its state and give the folder free.
_LOCK_SECONDS = 150


def main(arguments: list[str]) -> int:
    """Run a job.

    Args:
        arguments: The path of the job file.

    Returns:
        The exit code: 0, 2 for an error of the user's, 75 when it was told to stop. Under torchrun both are 0: it would
        start all processes again, and fail in the same way; the launching process reads the message that is left.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if len(arguments) != 1:
        print("usage: python -m dinomill.training.worker <job.json>", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    rank = int(os.environ.get("RANK", "0"))
    launcher = watch_launcher()
    forget_failure(path.parent, rank, int(os.environ.get("WORLD_SIZE", "1")))
    try:
        job = TrainingJob.load(path)
        # Rank 0 alone writes, hence it alone needs the lock; the others wait for it where the processes meet.
        lock = locked(job.work / "lock") if rank == 0 else contextlib.nullcontext()
        with lock, world(job.runtime.parallel, job.runtime.device) as here:
            train(job, here)
    except DinomillError as error:
        if LAUNCHER_PID not in os.environ and rank == 0:
            # Told to stop on a node: who stops it knows why, and whether it goes on by itself.
            on_node = "TORCHELASTIC_RUN_ID" in os.environ
            print(error.problem if on_node and isinstance(error, Interrupted) else error, file=sys.stderr)
        if launcher is not None and is_gone(launcher):
            # Nobody is left who would end the MLflow run, unless the next start goes on in it already.
            reason = f"the process that started the training was killed: {error.problem}"
            tracking.end_for(tracking.attach(), launcher.pid, "KILLED", reason)
        code = record_failure(path.parent, rank, error)
        return 0 if "TORCHELASTIC_RUN_ID" in os.environ else code
    except RuntimeError as error:
        if not _another_is_gone(error):
            raise
        log.warning("process %d: another process of this training has ended, and this one with it (%s)", rank, error)
        return 1
    return 0


def _another_is_gone(error: RuntimeError) -> bool:
    """Whether it is what the network says when a peer dies; that one's own error is the one to read."""
    text = str(error)
    return any(said in text for said in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))


def run(arguments: list[str]) -> NoReturn:
    """The process: ends at once when all is said, whatever threads of libraries still wait for."""
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch_launcher() -> psutil.Process | None:
    """Stop as for SIGTERM when the process that launched this one dies without a word (SIGKILL, out of memory)."""
    pid = os.environ.get(LAUNCHER_PID)
    if pid is None:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _end_with_agent()
        return None
    try:
        launcher = psutil.Process(int(pid))
    except psutil.NoSuchProcess:
        os.kill(os.getpid(), signal.SIGTERM)
        return None

    def watch() -> None:
        while not is_gone(launcher):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="dinomill-launcher").start()
    return launcher


def _end_with_agent() -> None:
    """End at once when torchrun on this node is killed: the other nodes go on without it, from the last checkpoint."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="dinomill-agent").start()


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; its number may have been given to another one since."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def locked(path: Path, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the work folder for this process; the system releases it when the process ends, however it ends.

    On a file system without locks (some NFS and Lustre mounts) it is not held, and the training goes on.

    Raises:
        MachineError: When another process still holds it after some time.
    """
    deadline = time.monotonic() + seconds
    told = False
    while True:
        busy = MachineError(
            f"Another process trains in {path.parent}.",
            action="wait until it has ended, or stop it: it saves its state first",
        )
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(held(path, busy))
                lock = stack.pop_all()
            break
        except MachineError:
            if time.monotonic() > deadline:
                raise
        if not told:
            print(f"waiting for the process that still works in {path.parent}", file=sys.stderr)
            told = True
        time.sleep(0.5)
    with lock:
        yield


if __name__ == "__main__":
    run(sys.argv[1:])
