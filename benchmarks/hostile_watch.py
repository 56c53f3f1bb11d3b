"""What is written down while hostile.py asks: memory of each process, and what the server says of itself."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from hostile_server import Served


class Watch:
    """Memory of each process, a row a second."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def growth(self) -> dict[str, float]:
        """By process: how much more the last quarter took than the second, as a share."""
        quarter = len(self.rows) // 4
        names = [name for name in (self.rows[-1] if self.rows else {}) if name.endswith("_mb")]
        grown = {}
        for name in names:
            values = [row.get(name, 0.0) for row in self.rows]
            early = float(np.mean(values[quarter : 2 * quarter] or values))
            grown[name] = float(np.mean(values[-quarter:] or values)) / max(early, 1.0) - 1
        return grown


@contextmanager
def watched(server: Served, output: Path, done: Callable[[], int]) -> Iterator[Watch]:
    """Within the block, memory and metrics are written down."""
    watch, ended = Watch(), threading.Event()
    start = time.monotonic()

    def look() -> None:
        with (output / "metrics.jsonl").open("w", encoding="utf-8") as samples:
            while not ended.wait(1.0):
                seconds = round(time.monotonic() - start, 2)
                watch.rows.append({"seconds": seconds, "requests": done(), **memory_of(server)})
                if len(watch.rows) % 2:
                    with suppress(OSError):
                        text = server.metrics()
                        samples.write(json.dumps({"seconds": seconds, "text": text}) + "\n")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
        with (output / "memory.csv").open("w", newline="", encoding="utf-8") as file:
            names = list(dict.fromkeys(name for row in watch.rows for name in row))
            writer = csv.DictWriter(file, names or ["seconds"])
            writer.writeheader()
            writer.writerows(watch.rows)


def workers_of(server: Served) -> dict[int, float]:
    """The workers' processes, with the time of their start: an id alone may be given again."""
    return {process.pid: process.create_time() for process in _below(server) if _is_worker(process)}


def memory_of(server: Served) -> dict[str, float]:
    """Megabytes of Java and of each worker that a process keeps."""
    found = {}
    for process in _below(server):
        with suppress(psutil.Error):
            name = f"worker_{process.pid}" if _is_worker(process) else process.name()
            name = "gateway" if process.pid == server.pid else name
            if name in ("java", "gateway") or name.startswith("worker_"):
                found[f"{name}_mb"] = round(process.memory_info().rss / 2**20, 1)
    return found


def _below(server: Served) -> list[psutil.Process]:
    with suppress(psutil.Error):
        gateway = psutil.Process(server.pid)
        return [gateway, *gateway.children(recursive=True)]
    return []


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any("model_service_worker" in part for part in process.cmdline())
    return False


def metrics_of(server: Served) -> dict[str, float]:
    """The sums of our metrics, by name."""
    sums: dict[str, float] = defaultdict(float)
    for line in server.metrics().splitlines():
        if line.startswith("dinomill_"):
            sums[line.split("{")[0]] += float(line.rsplit(" ", 1)[1])
    return dict(sums)
