"""What the gateway costs: the same requests to a TorchServe directly and through the gateway, in turns.

    python benchmarks/gateway.py                       # a network that costs nothing, and one like ViT-S/14
    python benchmarks/gateway.py --package PACKAGE     # a package of the packaging stage

Both ways end at the same TorchServe. Of each the CPU-seconds of the gateway and of the server behind (Java, workers)
are counted; photographs are JPEGs of 224 to 500 pixels. The client's own CPU is not counted.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from measuring import command_line

from dinomill.handles import PackageHandle
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import free_ports
from dinomill.storage.hashing import hash_file

_SERVE = """
import sys
from pathlib import Path
from dinomill.serving.gateway.serve import serve
from dinomill.serving.torchserve.properties import ServerConfig
serve(Path(sys.argv[1]), port=int(sys.argv[2]), run=Path(sys.argv[3]), config=ServerConfig(workers=1),
      say=lambda line: print(line, flush=True))
"""


class Way(NamedTuple):
    """A way to ask: its name, and a function that embeds images and says how many."""

    name: str
    ask: Callable[[bytes], int]


class Cost(NamedTuple):
    """Of the requests of one way: CPU-milliseconds a request of the gateway and of the server behind it."""

    gateway: float
    behind: float
    wall: float


class Running:
    """A gateway, and the TorchServe behind it, which is asked directly as well."""

    def __init__(self, port: int, run: Path, process: psutil.Process, model: str) -> None:
        self.port, self.model, self.process = port, model, process
        said = dict(
            line.split("=", 1)
            for line in (run / "server-1" / "config.properties").read_text().splitlines()
            if "=" in line
        )
        self.direct = int(said["inference_address"].rpartition(":")[2])
        self._run = run

    def token(self) -> str:
        return str(json.loads((self._run / "tokens.json").read_text())["current"]["key"])

    def direct_token(self) -> str:
        return client.read_token(self._run / "server-1")

    def cpu(self) -> tuple[float, float]:
        """CPU-seconds of the gateway, and of all below it."""
        below = 0.0
        for one in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                below += sum(one.cpu_times()[:2])
        return sum(self.process.cpu_times()[:2]), below


@contextlib.contextmanager
def running(package: Path, run: Path) -> Iterator[Running]:
    port = free_ports().inference
    command = [sys.executable, "-c", _SERVE, str(package), str(port), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while "Ctrl-C" not in (line := process.stdout.readline()):
                assert line, "the server ended"
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield Running(port, run, psutil.Process(process.pid), PackageHandle.load(package).model)
        finally:
            process.terminate()
            process.wait(60)


def made_package(folder: Path, variant: str, image_size: int, patch_size: int) -> Path:
    """A package of random weights: what is measured does not depend on them."""
    import torch

    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone
    from dinomill.models import variant as shape

    torch.manual_seed(0)
    model = build(shape(variant, patch_size=patch_size, image_size=image_size))
    save_backbone(folder / "backbone", model, PreprocessingConfig.square(image_size, (0.5,) * 3, (0.25,) * 3).section())
    store, server = folder / "model_store", ServerConfig(workers=1)
    archive = build_archive(
        folder / "backbone", store, model=variant, version="1", batching=BatchingConfig(), server=server
    )
    width = json.loads((folder / "backbone" / "config.json").read_text())["model"]["embed_dim"]
    PackageHandle(
        folder=folder, made_of="", archive=archive, archive_sha256=hash_file(archive), model=variant, version=1,
        embed_dim=width, smoke={},
    ).save()  # fmt: skip
    return folder


def photographs(count: int) -> list[bytes]:
    """JPEGs of 224 to 500 pixels, cut from scikit-image's."""
    from PIL import Image
    from skimage import data

    random, sources = np.random.default_rng(0), [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    made = []
    for number in range(count):
        picture = Image.fromarray(sources[number % len(sources)])
        side = int(random.integers(224, 501))
        buffer = io.BytesIO()
        picture.resize((side, int(side * picture.height / picture.width))).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def ways(server: Running, group: Sequence[bytes]) -> list[Way]:
    """Directly and through the gateway, an image at a time; and several in the shape of text embeddings."""
    texts = [base64.b64encode(image).decode() for image in group]
    shaped = json.dumps({"input": texts, "encoding_format": "base64"}).encode()
    instances = client.json_instances(group)["body"]

    def post(port: int, token: Callable[[], str], path: str, body: bytes, count: int, kind: str | None) -> int:
        answer = client.request("POST", port, path, token=token(), body=body, content_type=kind, timeout=120)
        assert answer.status == 200, answer
        return count

    path, plain, many = f"/predictions/{server.model}", "application/json", len(group)
    direct, front = (server.direct, server.direct_token), (server.port, server.token)
    return [
        Way("directly", lambda image: post(*direct, path, image, 1, None)),
        Way("gateway", lambda image: post(*front, path, image, 1, None)),
        Way(f"directly, {many} instances", lambda _: post(*direct, path, instances, many, plain)),
        Way(f"gateway, {many} instances", lambda _: post(*front, path, instances, many, plain)),
        Way(f"gateway, /v1/embeddings of {many}", lambda _: post(*front, "/v1/embeddings", shaped, many, plain)),
    ]


def measure(server: Running, way: Way, images: Sequence[bytes], clients: int) -> Cost:
    before, start = server.cpu(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        embedded = sum(pool.map(way.ask, images))
    after, wall = server.cpu(), time.perf_counter() - start
    gateway, behind = ((now - then) / len(images) * 1000 for now, then in zip(after, before, strict=True))
    return Cost(gateway, behind, wall / embedded * 1000)


def compare(package: Path, folder: Path, requests: int, clients: int, rounds: int) -> list[dict[str, object]]:
    """A row a way: medians over rounds in which the ways take turns."""
    images = photographs(16)
    with running(package, folder / "run") as server:
        asked = ways(server, images[:8])
        costs: dict[str, list[Cost]] = {way.name: [] for way in asked}
        for round_ in range(rounds + 1):
            for way in asked:
                alone = way.name in ("directly", "gateway")
                sent = [images[at % len(images)] for at in range(requests if alone else max(2, requests // 8))]
                cost = measure(server, way, sent, clients if alone else 1)
                if round_:  # the first one warms up
                    costs[way.name].append(cost)
        rows: list[dict[str, object]] = []
        for way in asked:
            gateway, behind, wall = (statistics.median(values) for values in zip(*costs[way.name], strict=True))
            count = 1 if way.name in ("directly", "gateway") else 8
            rows.append(
                {
                    "model": server.model,
                    "way": way.name,
                    "clients": clients,
                    "gateway_cpu_ms": round(gateway if way.name.startswith("gateway") else 0.0, 2),
                    "behind_cpu_ms": round(behind, 2),
                    "images_per_cpu_s": round(
                        1000 * count / (behind + (gateway if way.name.startswith("gateway") else 0)), 1
                    ),
                    "wall_ms_an_image": round(wall, 2),
                }
            )
        return rows


def main() -> None:
    parser = command_line(__doc__, "the small network, a few requests")
    parser.add_argument("--package", type=Path, help="a package; by default two are made, of random weights")
    parser.add_argument("--only", choices=["nano", "small"], help="one of the two networks")
    parser.add_argument("--requests", type=int, default=200, help="a round and way")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    rounds = 1 if options.smoke else options.rounds
    requests = 16 if options.smoke else options.requests
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="dinomill-gateway-") as name:
        folder = Path(name)
        if options.package is not None:
            rows += compare(options.package, folder, requests, options.clients, rounds)
        else:
            if options.only != "small":
                rows += compare(
                    made_package(folder / "nano", "nano", 64, 8), folder / "a", requests, options.clients, rounds
                )
            if options.only != "nano" and not options.smoke:
                package = made_package(folder / "small", "small", 224, 14)
                rows += compare(package, folder / "b", max(40, requests // 4), options.clients, rounds)
    print(f"{'model':12} {'way':34} {'gateway':>9} {'behind':>9} {'images/CPU-s':>13} {'wall/image':>11}")
    for row in rows:
        print(
            f"{row['model']:12} {row['way']:34} {row['gateway_cpu_ms']:>6} ms {row['behind_cpu_ms']:>6} ms "
            f"{row['images_per_cpu_s']:>13} {row['wall_ms_an_image']:>8} ms"
        )
    print(json.dumps({"benchmark": "gateway", "smoke": options.smoke, "clients": options.clients, "rows": rows}))


if __name__ == "__main__":
    main()
