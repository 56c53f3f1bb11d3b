"""What benchmarks/serving.py compares: bare loops, servers under a load, `dinomill embed` over a folder."""

from __future__ import annotations

import http.client
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from measuring import timed
from PIL import Image

from dinomill.serving.backends.choice import Backend
from dinomill.serving.backends.open import open_backend
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import TorchServe, free_ports

PLAIN = Path(__file__).parent / "contenders" / "plain_handler.py"
MODEL = "mill"
BATCH = 8


class Seen(NamedTuple):
    """One load of one contender."""

    clients: int
    rate: float  # images a second
    per_cpu: float  # images a CPU-second
    p50: float  # milliseconds
    p99: float


def jpegs(count: int = 32) -> list[bytes]:
    """Photographs that scikit-image brings, cut to sides of 224 to 500 pixels."""
    from skimage import data

    draw = np.random.default_rng(0)
    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    found = []
    for number in range(count):
        source = Image.fromarray(sources[number % len(sources)])
        width, height = (int(side) for side in draw.integers(224, 501, size=2))
        buffer = io.BytesIO()
        source.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def bare(folder: Path, programs: Path, backend: Backend, images: Sequence[bytes], seconds: float) -> tuple[Seen, ...]:
    """A loop without a server, one image at a time and in batches."""
    predictor = Predictor(open_backend(folder, backend, threads=1, programs=programs))
    found = []
    for size in (1, BATCH):
        predictor.batch_size = size
        predictor(images[:size])
        times: list[float] = []
        done, start, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds or not times:
            asked = time.perf_counter()
            predictor([images[(done + number) % len(images)] for number in range(size)])
            times.append(1000 * (time.perf_counter() - asked))
            done += size
        wall, used = time.perf_counter() - start, time.process_time() - cpu
        p50, p99 = np.quantile(times, [0.5, 0.99])
        found.append(Seen(size, done / wall, done / used, float(p50), float(p99)))
    return tuple(found)


@contextmanager
def served(store: Path, run: Path) -> Iterator[Served]:
    """A server of an archive with one worker."""
    with TorchServe(MODEL, store, run, ServerConfig(workers=1), free_ports()) as server:
        seconds = server.wait_ready(300)
        yield Served(server, seconds, _newest_java())


class Served(NamedTuple):
    """A server that answers."""

    server: TorchServe
    ready: float  # seconds that it took
    java: psutil.Process

    def cpu(self) -> float:
        """CPU-seconds of Java and all below it."""
        total = 0.0
        for one in (self.java, *self.java.children(recursive=True)):
            with suppress(psutil.Error):
                total += sum(one.cpu_times()[:4])
        return total

    def memory(self) -> float:
        """MB of Java and its workers."""
        found = 0
        for one in (self.java, *self.java.children(recursive=True)):
            with suppress(psutil.Error):
                found += one.memory_info().rss
        return found / 1e6


def _newest_java() -> psutil.Process:
    found = [one for one in psutil.Process().children(recursive=True) if one.name() == "java"]
    return max(found, key=lambda one: one.create_time())


def load(served_: Served, images: Sequence[bytes], clients: int, seconds: float) -> Seen:
    """A load of a TorchServe; see `asked`."""
    address = Address(served_.server.ports.inference, f"/predictions/{MODEL}", served_.server.token())
    return asked(address, images, clients, seconds, served_.cpu)


class Address(NamedTuple):
    """Where images are posted."""

    port: int
    path: str
    token: str


def asked(
    address: Address, images: Sequence[bytes], clients: int, seconds: float, cpu_seconds: Callable[[], float]
) -> Seen:
    """So many clients, each of which asks again as soon as it has its answer.

    Args:
        address: On this machine.
        images: In turns.
        clients: How many.
        seconds: How long.
        cpu_seconds: Of the server, so far.
    """
    stop = time.perf_counter() + seconds
    times: list[float] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=120)
        while time.perf_counter() < stop:
            began = time.perf_counter()
            headers = {"Authorization": f"Bearer {address.token}", "Content-Type": "image/jpeg"}
            connection.request("POST", address.path, images[number % len(images)], headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            times.append(1000 * (time.perf_counter() - began))
            number += clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    start, cpu = time.perf_counter(), cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, used = time.perf_counter() - start, cpu_seconds() - cpu
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return Seen(clients, len(times) / wall, len(times) / max(used, 1e-3), float(p50), float(p99))


def embedded(folder: Path, backend: Backend, images: Sequence[bytes], scratch: Path, copies: int) -> Seen:
    """`dinomill embed` over folders of two lengths: the difference, in CPU-seconds of its process."""
    name = str(backend).replace(" float32", "").replace(" ", "-")
    taken = []
    for times in (1, 1 + copies):
        photos = scratch / f"photos-{times}"
        if not photos.is_dir():
            photos.mkdir()
            for number in range(times * len(images)):
                (photos / f"{number:05d}.jpg").write_bytes(images[number % len(images)])
        command = [
            str(Path(sys.executable).with_name("dinomill")),
            "embed",
            str(photos),
            "-o",
            str(scratch / "photos.parquet"),
        ]
        command += ["--model", str(folder), "--backend", name, "--batch-size", str(BATCH)]
        if backend.precision == "int8":
            command += ["--calibration", str(scratch / "photos-1")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(scratch / "cache")}
        if times == 1 and not (scratch / "cache").is_dir():  # the program is written once
            subprocess.run(command, check=True, capture_output=True, env=environment)
        _, spent = timed(partial(subprocess.run, command, check=True, capture_output=True, env=environment))
        taken.append(spent)
    count = copies * len(images)
    wall, used = taken[1].wall - taken[0].wall, taken[1].cpu - taken[0].cpu
    return Seen(1, count / wall, count / used, float("nan"), float("nan"))


def plain_archive(folder: Path, store: Path) -> None:
    """The archive of the plain handler."""
    store.mkdir()
    (folder / "plain.yaml").write_text(f"batchSize: {BATCH}\nmaxBatchDelay: 5\nresponseTimeout: 120\n")
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", MODEL, "--version", "1"]
    command += ["--handler", str(PLAIN), "--extra-files", str(folder), "--export-path", str(store)]
    subprocess.run([*command, "--config-file", str(folder / "plain.yaml")], check=True, capture_output=True)
