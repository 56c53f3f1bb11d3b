"""TorchServe and LitServe with one package: the same worker code behind two programs, asked in turns.

    python benchmarks/targets.py --model vits14.safetensors [--seconds 5] [--clients 1 8 32]
    python benchmarks/targets.py --package data/07_model_output/package

JPEGs of 224 to 500 pixels, one worker with one thread. Three ways: TorchServe asked directly; through the gateway, as
`dinomill serve` runs it; LitServe, which has the gateway in its own process. Each is loaded in turns, round by round;
of a server the CPU-seconds of all its processes are counted, the clients' are not. `idle` is what a server takes while
nobody asks. Answers are compared with each other.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from gateway import Running, made_package, running
from measuring import Table, command_line, finish
from serving_load import BATCH, MODEL, Address, Seen, asked, jpegs

from dinomill import features
from dinomill.features.backbone import BackboneFeatures
from dinomill.handles import PackageHandle
from dinomill.images.preprocess import preprocess_bytes
from dinomill.models import save_backbone
from dinomill.serving.backends.config import BackendConfig
from dinomill.serving.backends.select import select
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.litserve.folder import Target, write_folder
from dinomill.serving.litserve.process import LitServe
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import free_ports
from dinomill.storage.hashing import hash_file


class Way(NamedTuple):
    """A way to ask."""

    name: str
    port: int
    token: Callable[[], str]
    used: Callable[[], tuple[float, float]]  # CPU-seconds and MB of the server's processes


def package_of(model: Path, folder: Path, choice: str) -> Path:
    """A package of weights with a backend: the fastest here (measured), or a runtime and a precision."""
    found = features.open(model)
    assert isinstance(found, BackboneFeatures)
    save_backbone(folder / "backbone", found.model, found.preprocessing.section())
    prepared = np.stack([preprocess_bytes(image, found.preprocessing) for image in jpegs()])
    said = choice if choice == "measured" else dict(zip(("runtime", "precision"), choice.split(), strict=True))
    config = BackendConfig.parse({"choice": said}, where="--backend")
    beside = folder / "beside"
    selected = select(folder / "backbone", prepared, beside, config, threads=1, batch_size=BATCH)
    archive = build_archive(
        folder / "backbone",
        folder / "package" / "model_store",
        model=MODEL,
        version="1",
        batching=BatchingConfig(),
        server=ServerConfig(workers=1),
        backend=selected.backend,
        beside=beside,
    )
    PackageHandle(
        folder=folder / "package", made_of="", archive=archive, archive_sha256=hash_file(archive), model=MODEL,
        version=1, embed_dim=found.dim, smoke={}, backend=str(selected.backend),
    ).save()  # fmt: skip
    return folder / "package"


def used_by(process: int) -> tuple[float, float]:
    """CPU-seconds and MB of a process and all below it."""
    first = psutil.Process(process)
    cpu = memory = 0.0
    for one in (first, *first.children(recursive=True)):
        with suppress(psutil.Error):
            cpu += sum(one.cpu_times()[:2])
            memory += one.memory_info().rss / 1e6
    return cpu, memory


def used_behind(server: Running) -> tuple[float, float]:
    """The same of the server behind a gateway alone."""
    cpu, memory = 0.0, 0.0
    for one in server.process.children(recursive=True):
        with suppress(psutil.Error):
            cpu += sum(one.cpu_times()[:2])
            memory += one.memory_info().rss / 1e6
    return cpu, memory


def embed(way: Way, path: str, image: bytes) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", way.port, timeout=120)
    connection.request("POST", path, image, {"Authorization": f"Bearer {way.token()}", "Content-Type": "image/jpeg"})
    vector: list[float] = json.loads(connection.getresponse().read())["embedding"]
    connection.close()
    return vector


def load(way: Way, path: str, images: Sequence[bytes], clients: int, seconds: float) -> Seen:
    """A load of one way; see `asked`."""
    return asked(Address(way.port, path, way.token()), images, clients, seconds, lambda: way.used()[0])


def compare(package: Path, scratch: Path, clients: Sequence[int], seconds: float, rounds: int) -> dict[str, object]:
    """Print the table; returns its figures."""
    images, model = jpegs(), PackageHandle.load(package).model
    path, backend = f"/predictions/{model}", PackageHandle.load(package).backend
    folder = scratch / "folder"
    write_folder(folder, Target(package, ServerConfig(workers=1), GatewayConfig()))
    with ExitStack() as stack:
        started = time.perf_counter()
        torchserve = stack.enter_context(running(package, scratch / "torchserve"))
        ready = {"TorchServe": time.perf_counter() - started}
        litserve = stack.enter_context(LitServe(folder, scratch / "litserve", free_ports().inference))
        ready["LitServe"] = litserve.wait_ready(300)
        assert litserve.process is not None
        first, second = litserve.process.pid, torchserve.process.pid
        ways = [
            Way("TorchServe", torchserve.direct, torchserve.direct_token, lambda: used_behind(torchserve)),
            Way("gateway and TorchServe", torchserve.port, torchserve.token, lambda: used_by(second)),
            Way("LitServe", litserve.port, lambda: litserve.token, lambda: used_by(first)),
        ]
        vectors = [np.array([embed(way, path, image) for image in images[:8]]) for way in ways]
        agree = [bool(np.allclose(one, vectors[0], atol=1e-3)) for one in vectors]
        assert all(agree), agree
        seen: dict[tuple[str, int], list[Seen]] = {}
        for round_ in range(rounds + 1):  # the first one warms up
            for count in clients:
                for way in ways:
                    found = load(way, path, images, count, seconds if round_ else min(seconds, 2))
                    if round_:
                        seen.setdefault((way.name, count), []).append(found)
        idle = {way.name: idle_of(way, seconds) for way in ways}
        memory = {way.name: way.used()[1] for way in ways}
    table = Table("clients", "images/s", "a CPU-s", "p50 ms", "p99 ms", "MB", "idle ms/s", name=26)
    rows = []
    for way in ways:
        for count in clients:
            mean = Seen(*(statistics.median(values) for values in zip(*seen[way.name, count], strict=True)))
            cells = (f"{mean.rate:.1f}", f"{mean.per_cpu:.1f}", f"{mean.p50:.1f}", f"{mean.p99:.1f}")
            table.row(way.name, str(count), *cells, f"{memory[way.name]:.0f}", f"{idle[way.name]:.1f}")
            rows.append(
                {
                    "way": way.name,
                    **mean._asdict(),
                    "clients": count,
                    "mb": memory[way.name],
                    "idle_ms_s": idle[way.name],
                }
            )
    return {"model": model, "backend": backend, "ready_s": ready, "rows": rows}


def idle_of(way: Way, seconds: float) -> float:
    """CPU-milliseconds a second that a server takes while nobody asks."""
    before, start = way.used()[0], time.perf_counter()
    time.sleep(seconds)
    return 1000 * (way.used()[0] - before) / (time.perf_counter() - start)


def main() -> None:
    parser = command_line(__doc__, "a small random network, half a second each")
    parser.add_argument("--package", type=Path, help="of the packaging stage")
    parser.add_argument("--model", type=Path, help="a backbone, of which a package is made")
    parser.add_argument("--backend", default="measured", help='of that package: measured, or as "openvino bfloat16"')
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each way and number of clients, a round")
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dinomill-targets-") as name:
        scratch = Path(name)
        if told.smoke:
            figures = compare(made_package(scratch / "package", "nano", 64, 8), scratch, [1, 8], 0.5, 1)
        else:
            made = scratch / "made"
            package = told.package or (
                package_of(told.model, made, told.backend) if told.model else made_package(made, "nano", 64, 8)
            )
            figures = compare(package, scratch, told.clients, told.seconds, told.rounds)
    finish(figures, smoke=told.smoke)


if __name__ == "__main__":
    main()
