"""What a server makes of the processor: our archive, TorchServe with a plain handler, and bare loops of each backend.

    python benchmarks/serving.py --model vits14.safetensors [--seconds 5] [--clients 1 8 32]

JPEGs of 224 to 500 pixels, the network at its own size. A bare loop decodes, preprocesses and embeds in one thread of
one process, without a server: the bound. Of a server the CPU-seconds are Java's and its workers'; the clients', which
are threads of this process, are not counted. One worker with one thread each, so that CPU-seconds compare.
"""

from __future__ import annotations

import http.client
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from measuring import Table, command_line, cpu_seconds, finish
from PIL import Image

from dinomill import features
from dinomill.features.backbone import BackboneFeatures
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.backends.choice import Backend
from dinomill.serving.backends.config import BackendConfig
from dinomill.serving.backends.open import open_backend
from dinomill.serving.backends.select import select
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
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
def served(store: Path, run: Path) -> Iterator[tuple[TorchServe, float]]:
    """A server of an archive with one worker, and the seconds until it was ready."""
    with TorchServe(MODEL, store, run, ServerConfig(workers=1), free_ports()) as server:
        yield server, server.wait_ready(300)


def load(server: TorchServe, images: Sequence[bytes], clients: int, seconds: float) -> Seen:
    """So many clients, each of which asks again as soon as it has its answer."""
    token, stop, times = server.token(), time.perf_counter() + seconds, [0.0]
    times.clear()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.ports.inference, timeout=120)
        while time.perf_counter() < stop:
            asked = time.perf_counter()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
            connection.request("POST", f"/predictions/{MODEL}", images[number % len(images)], headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            times.append(1000 * (time.perf_counter() - asked))
            number += clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    start, cpu = time.perf_counter(), cpu_seconds() - time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, used = time.perf_counter() - start, cpu_seconds() - time.process_time() - cpu
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return Seen(clients, len(times) / wall, len(times) / max(used, 1e-3), float(p50), float(p99))


def memory() -> float:
    """MB of all processes below this one: Java and its workers."""
    return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True)) / 1e6


def plain_archive(folder: Path, store: Path) -> None:
    """The archive of the plain handler."""
    store.mkdir()
    (folder / "plain.yaml").write_text(f"batchSize: {BATCH}\nmaxBatchDelay: 5\nresponseTimeout: 120\n")
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", MODEL, "--version", "1"]
    command += ["--handler", str(PLAIN), "--extra-files", str(folder), "--export-path", str(store)]
    subprocess.run([*command, "--config-file", str(folder / "plain.yaml")], check=True, capture_output=True)


def compare(folder: Path, images: list[bytes], clients: list[int], seconds: float, config: BackendConfig) -> object:
    """Print the table; returns its figures."""
    figures: dict[str, object] = {}
    table = Table("clients", "images/s", "a CPU-s", "p50 ms", "p99 ms", "ready s", "MB", name=30)

    def show(name: str, seen: Sequence[Seen], ready: float, used: float) -> None:
        for one in seen:
            table.row(
                name if one is seen[0] else "",
                str(one.clients),
                *(f"{value:.1f}" for value in one[1:]),
                f"{ready:.1f}" if one is seen[0] else "",
                f"{used:.0f}" if one is seen[0] else "",
            )
        figures[name] = {"loads": [one._asdict() for one in seen], "ready_s": round(ready, 1), "mb": round(used)}

    settings = features.open(folder).preprocessing
    prepared = np.stack([preprocess_bytes(image, settings) for image in images])
    with tempfile.TemporaryDirectory(prefix="dinomill-serving-") as name:
        scratch = Path(name)
        every = scratch / "every"
        selected = select(folder, prepared, every, config, threads=1, batch_size=BATCH, keep=True)
        for row in selected.table:
            seen = bare(folder, every, row.backend, images, seconds)
            show(f"bare {row.backend}", seen, row.cold_start_seconds, row.memory_mb)
        beside = scratch / "beside"
        beside.mkdir()
        for file in selected.backend.files:
            (every / file).rename(beside / file)
        build_archive(
            folder,
            scratch / "ours",
            model=MODEL,
            version="1",
            batching=BatchingConfig(response_seconds=120),
            server=ServerConfig(workers=1),
            backend=selected.backend,
            beside=beside,
        )
        plain_archive(folder, scratch / "plain")
        for name_, store in ((f"our archive ({selected.backend})", "ours"), ("plain handler", "plain")):
            with served(scratch / store, scratch / f"run-{store}") as (server, ready):
                load(server, images, BATCH, min(seconds, 2))  # warm
                found = [load(server, images, count, seconds) for count in clients]
                show(name_, found, ready, memory())
    return figures


def main() -> None:
    parser = command_line(__doc__, "a small random network, half a second each")
    parser.add_argument("--model", type=Path, help="a backbone: file or folder")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each contender and number of clients")
    told = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dinomill-serving-") as name:
        if told.smoke:
            torch.manual_seed(0)
            model = VisionTransformer(variant("nano", depth=2, image_size=56, layerscale=1.0))
            save_backbone(Path(name), model, PreprocessingConfig(image_size=56, resize=56).section())
            quick = {"candidates": ["eager", "openvino"], "precisions": ["float32"], "seconds": 0.1, "clients": [1]}
            figures = compare(Path(name), jpegs(12), [1, 8], 0.5, BackendConfig.parse(quick, where="--smoke"))
        else:
            found = features.open(told.model)
            assert isinstance(found, BackboneFeatures)
            save_backbone(Path(name), found.model, found.preprocessing.section())
            figures = compare(Path(name), jpegs(), told.clients, told.seconds, BackendConfig(seconds=1.0))
    finish({"contenders": figures}, smoke=told.smoke)


if __name__ == "__main__":
    main()
