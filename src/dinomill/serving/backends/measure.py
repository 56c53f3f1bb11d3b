"""Measure a backend as a server uses it: in a process of its own, one image at a time and batches of several clients.

python -m dinomill.serving.backends.measure SPECIFICATION ANSWER     (both JSON; the embeddings in ANSWER.npy)
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from dinomill.arrays import Floats
from dinomill.config import Config
from dinomill.errors import DinomillError, MachineError
from dinomill.serving.backends.choice import Backend
from dinomill.serving.backends.measured import Load, Measured
from dinomill.serving.leash import die_with_us
from dinomill.serving.processes import shown


class Specification(Config):
    """What a measuring process is told."""

    folder: Path
    programs: Path
    backend: Backend
    images: Path = Field(description="an .npy file of preprocessed images, [N, C, S, S]")
    threads: int
    batch_size: int
    clients: tuple[int, ...]
    seconds: float = Field(description="CPU-seconds for each number of clients")


_PATIENCE = 20.0  # wall-clock seconds for a CPU-second, at most
_LOADED = 32  # images that clients ask for; more would only fill memory
_LEAST_SECONDS = 300.0  # to start, and to compile
# A second for each image of 224 × 224 and 100 MB of weights: ViT-S/14 took a ninth of it, on one slow core.
_SECONDS_A_BYTE, _USUAL_VALUES = 1e-8, 3 * 224 * 224


def measure(told: Specification, scratch: Path) -> tuple[Measured, Floats]:
    """Measure in a process of its own; the embeddings ``[N, E]`` come with it.

    Raises:
        MachineError: When the process fails, with the last line that it said, or does not end.
    """
    name = f"{told.backend.runtime}-{told.backend.precision}"
    asked, answer = scratch / f"{name}.json", scratch / f"{name}.answer.json"
    asked.write_text(told.model_dump_json(), encoding="utf-8")
    threads = {"OMP_NUM_THREADS": str(told.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", __name__, str(asked), str(answer)]
    status, said = _run(command, shown(os.environ) | threads, scratch, time_limit(told))
    if status:
        raise MachineError(f"The backend {told.backend} cannot be measured.", found=said or f"exit status {status}")
    vectors: Floats = np.load(answer.with_suffix(".npy"))
    return Measured.model_validate_json(answer.read_text(encoding="utf-8")), vectors


def time_limit(told: Specification) -> float:
    """Seconds after which a measuring process is taken for hung: far more than honest ones were seen to take."""
    images: Floats = np.load(told.images, mmap_mode="r")
    weights = told.folder / "model.safetensors"
    size = weights.stat().st_size if weights.exists() else 0
    computed = images.size / _USUAL_VALUES * size * _SECONDS_A_BYTE
    return _LEAST_SECONDS + _PATIENCE * told.seconds * len(told.clients) + computed


def _run(command: list[str], environment: dict[str, str], scratch: Path, seconds: float) -> tuple[int, str]:
    """Exit status and last line of a process; at its time limit it ends, with all that it has started."""
    # A file, not a pipe: what a killed process has started may hold a pipe open for ever.
    with (scratch / "said.txt").open("w+b") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_us(),
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 1, f"it did not end within {seconds:.0f} seconds"
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
        return status, lines[-1] if lines else ""


def main(asked: Path, answer: Path) -> None:
    """The measuring process."""
    started = time.time() - _age()
    told = Specification.model_validate_json(asked.read_text(encoding="utf-8"))
    import torch

    from dinomill.serving.backends.open import open_backend
    from dinomill.serving.backends.programs import embed_all

    torch.set_num_threads(told.threads)
    # Read as they are needed, and writable for PyTorch: what is compared later is no part of a server's memory.
    images: Floats = np.load(told.images, mmap_mode="c")
    features = open_backend(told.folder, told.backend, threads=told.threads, programs=told.programs)
    embed_all(features, images[:1])
    cold, cold_cpu = time.time() - started, time.process_time()
    asked_for = np.array(images[:_LOADED])
    for clients in told.clients:  # each size of batch once, before time counts
        embed_all(features, asked_for[: min(clients, told.batch_size)], told.batch_size)
    loads = tuple(_load(features, asked_for, clients, told) for clients in told.clients)
    memory = _peak_memory()
    np.save(answer.with_suffix(".npy"), embed_all(features, images, told.batch_size))
    found = Measured(
        backend=told.backend,
        cold_start_seconds=round(cold, 2),
        cold_start_cpu=round(cold_cpu, 2),
        memory_mb=round(memory, 1),
        loads=loads,
    )
    answer.write_text(found.model_dump_json(), encoding="utf-8")


def _peak_memory() -> float:
    """The largest resident set of this process in MB.

    Not what `getrusage` says: Linux lets a child begin with its parent's, and packaging is larger than most backends.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _age() -> float:
    """Seconds since this process began: the interpreter's start counts, too."""
    import psutil

    return float(time.time() - psutil.Process().create_time())


def _load(features: Any, images: Floats, clients: int, told: Specification) -> Load:
    """Clients in threads, which wait for their answers; one worker that takes all who wait, up to a batch."""
    waiting: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
    stop = threading.Event()
    times: list[float] = []

    def client(number: int) -> None:
        while not stop.is_set():
            asked = _Asked(number % len(images), time.perf_counter(), threading.Event())
            waiting.put(asked)
            asked.answered.wait()
            number += clients

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    start, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    # In CPU-seconds, so that a machine with other work gives as many images to judge by.
    while not times or (
        time.process_time() - cpu < told.seconds and time.perf_counter() - start < _PATIENCE * told.seconds
    ):
        times += _serve(features, images, waiting, told.batch_size)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    stop.set()
    while any(thread.is_alive() for thread in threads):
        _release(waiting)
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1000
    return Load(
        clients=clients,
        images_per_second=round(len(times) / seconds, 2),
        images_per_cpu_second=round(len(times) / max(used, 1e-3), 2),
        p50_ms=round(float(p50), 2),
        p99_ms=round(float(p99), 2),
    )


class _Asked(NamedTuple):
    """A request: which image, since when, and how its client learns that it is answered."""

    image: int
    since: float
    answered: threading.Event


def _serve(features: Any, images: Floats, waiting: Any, most: int) -> list[float]:
    """Answer all who wait, up to a batch; the seconds that each has waited."""
    from dinomill.serving.backends.programs import embed_all

    batch = [waiting.get()]
    while len(batch) < most:
        try:
            batch.append(waiting.get_nowait())
        except queue.Empty:
            break
    embed_all(features, np.ascontiguousarray(images[[asked.image for asked in batch]]), len(batch))
    now = time.perf_counter()
    for asked in batch:
        asked.answered.set()
    return [now - asked.since for asked in batch]


def _release(waiting: Any) -> None:
    try:
        waiting.get(timeout=0.01).answered.set()
    except queue.Empty:
        return


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except DinomillError as error:
        raise SystemExit(str(error).replace("\n", " ")) from None
