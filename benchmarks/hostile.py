"""Requests at the edge of what a server bears, 5% of them hostile: is every good one answered, and does it stay whole?

The container's program, the gateway and a TorchServe with as many workers as there are cores, serves a small network.
Clients ask without a pause, single images and JSON; in between come the kinds of hostile_kinds.py. Every good answer is
compared with the network's own, every bad one has to have a status of 4xx and a reason, workers have to be the same
processes at the end, and the memory of each process is written down each second.

    <output>/memory.csv      seconds, requests, megabytes of each process
    <output>/metrics.jsonl   what /metrics said, every two seconds
    <output>/hostile.png     requests and memory, drawn
    <output>/dashboard.png   the panels of Grafana's dashboard, drawn from metrics.jsonl

    python benchmarks/hostile.py --backbone data/06_models/students/small      20,000 requests, some minutes
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hostile_kinds import GONE, KINDS, Kind, Seen, Target, ask, instances, thin_picture
from hostile_plot import draw
from hostile_server import Served
from hostile_watch import Watch, metrics_of, watched, workers_of
from measuring import Table, command_line, finish
from PIL import Image

from dinomill.arrays import Floats
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve.properties import ServerConfig

_MIN_COSINE = 0.999
_TRIES = 8  # of a good request that is told to come again
_GROWTH = 0.1  # of memory, from the second quarter to the last, that is still called flat
_MODEL = "hostile"


def main() -> None:
    parser = command_line(__doc__, "400 requests to random weights")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=24, help="how many ask at once")
    parser.add_argument("--share", type=float, default=0.05, help="of hostile requests")
    parser.add_argument("--backbone", type=Path, help="an exported one; default: a small one with random weights")
    parser.add_argument("--output", type=Path, help="where the files go; default: nowhere")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only draw what an earlier run wrote there")
    options = parser.parse_args()
    if options.draw is not None:
        draw_again(options.draw)
        return
    requests = 400 if options.smoke else options.requests
    with tempfile.TemporaryDirectory(prefix="dinomill-hostile-") as name:
        folder = Path(name)
        output = options.output or folder / "output"
        output.mkdir(parents=True, exist_ok=True)
        backbone = options.backbone or random_backbone(folder / "backbone")
        trial = Trial(backbone, random.Random(options.seed))
        figures = trial.run(folder, output, requests, options)
    finish(figures, smoke=options.smoke)
    sys.exit(1 if figures["faults"] else 0)


def draw_again(folder: Path) -> None:
    """Both pictures, from the files that lie there."""
    from hostile_dashboard import draw as draw_dashboard
    from hostile_dashboard import read_samples

    draw(folder)
    draw_dashboard(read_samples(folder / "metrics.jsonl"), folder / "dashboard.png")


class Trial:
    """All requests of one run, and what came of them."""

    def __init__(self, backbone: Path, chance: random.Random) -> None:
        self.backbone = backbone
        self.chance = chance
        self.images = photographs(chance)
        self.thin = thin_picture()
        self.expected = Predictor(backbone)([*self.images, self.thin])
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)
        self.reasons: dict[str, str] = {}
        self.faults: list[str] = []
        self.again = 0
        self.seconds: list[float] = []
        self.done = 0
        self._lock = threading.Lock()

    def run(self, folder: Path, output: Path, requests: int, options: argparse.Namespace) -> dict[str, Any]:
        """Serve, ask, and say what was seen."""
        config = ServerConfig(workers=psutil.cpu_count() or 1, token_minutes=600)
        with Served(self.backbone, folder, _MODEL, config, self.expected.shape[1]) as server:
            target = Target(server.port, f"/predictions/{_MODEL}", server.token())
            before = workers_of(server)
            start = time.monotonic()
            with watched(server, output, lambda: self.done) as watch:
                self._all(target, requests, options)
            spent = time.monotonic() - start
            self._after(server, target, before)
            counted = metrics_of(server)
            log = server.log()
        if "Traceback" in log:
            self.faults.append("a traceback in the log: " + log[log.index("Traceback") :][:1500])
        self._judge_memory(watch)
        draw(output)
        return self._figures(requests, spent, counted)

    def _all(self, target: Target, requests: int, options: argparse.Namespace) -> None:
        kinds = self._plan(requests, options.share)
        # Who is slow keeps a thread: these have others, so that the good ones go on.
        with ThreadPoolExecutor(options.clients) as good, ThreadPoolExecutor(options.clients) as bad:
            futures = []
            room = threading.Semaphore(2 * options.clients)  # the plan goes on as it is worked off

            def free(_: object) -> None:
                room.release()

            for number, kind in enumerate(kinds):
                room.acquire()
                chance = random.Random(number)
                future = (
                    good.submit(self._good, target, chance)
                    if kind is None
                    else bad.submit(self._bad, target, kind, chance)
                )
                future.add_done_callback(free)
                futures.append(future)
            for future in futures:
                future.result()

    def _plan(self, requests: int, share: float) -> list[Kind | None]:
        hostile = round(requests * share)
        plan: list[Kind | None] = [KINDS[number % len(KINDS)] for number in range(hostile)]
        plan += [None] * (requests - hostile)
        self.chance.shuffle(plan)
        return plan

    def _good(self, target: Target, chance: random.Random) -> None:
        numbers = [chance.randrange(len(self.images)) for _ in range(chance.choice([1, 1, 1, 1, 3]))]
        many = len(numbers) > 1
        body = instances([self.images[one] for one in numbers]) if many else self.images[numbers[0]]
        headers = {"Content-Type": "application/json"} if many else {}
        start = time.monotonic()
        for attempt in range(_TRIES):
            try:
                seen = ask(target, body, headers)
            except OSError as error:
                seen = Seen(-1, str(error).encode())
            if seen.status != 503:
                break
            with self._lock:
                self.again += 1
            time.sleep(0.1 * 2**attempt)
        found = seen.json() if seen.status == 200 else None
        vectors = (found["embeddings"] if many else [found["embedding"]]) if isinstance(found, dict) else []
        with self._lock:
            self.done += 1
            self.seconds.append(time.monotonic() - start)
            self.statuses["good"][seen.status] += 1
            if not alike(vectors, self.expected[numbers]):
                self.faults.append(f"good: {seen.status} {seen.reason()[:200]}")

    def _bad(self, target: Target, kind: Kind, chance: random.Random) -> None:
        number = chance.randrange(len(self.images))
        seen = Seen(503)
        for attempt in range(_TRIES):
            try:
                seen = kind.send(target, chance, self.images[number])
            except OSError as error:
                seen = Seen(-1, str(error).encode())
            if seen.status != 503:
                break
            time.sleep(0.1 * 2**attempt)
        with self._lock:
            self.done += 1
            self.statuses[kind.name][seen.status] += 1
            self.reasons.setdefault(kind.name, seen.reason()[:160])
            if fault := self._fault(kind, seen, number):
                self.faults.append(f"{kind.name}: {fault}")

    def _fault(self, kind: Kind, seen: Seen, number: int) -> str | None:
        if seen.status not in kind.right:
            return f"{seen.status} {seen.reason()[:200]}"
        if seen.status == GONE:
            return None
        if seen.status != 200:
            return None if seen.reason() else f"{seen.status} without a reason"
        expected = self.expected[-1:] if kind.name == "20,000 x 1" else self.expected[[number]]
        if kind.name == "damaged" or alike([(seen.json() or {}).get("embedding")], expected):
            return None
        return "200 with another embedding"

    def _after(self, server: Served, target: Target, before: dict[int, float]) -> None:
        """The server is still whole: the same workers, and the next requests are answered."""
        if workers_of(server) != before:
            self.faults.append(f"workers were {sorted(before)} and are {sorted(workers_of(server))}")
        for number in range(20):
            self._good(target, random.Random(-number))

    def _judge_memory(self, watch: Watch) -> None:
        for name, grown in watch.growth().items():
            if grown > _GROWTH and self.done > 5000:
                self.faults.append(f"memory of {name} grew by {grown:.0%}")
        self.growth = watch.growth()

    def _figures(self, requests: int, spent: float, counted: dict[str, float]) -> dict[str, Any]:
        table = Table("requests", "statuses", name=32)
        for name, statuses in sorted(self.statuses.items()):
            told = ", ".join(f"{status or 'gone'}: {count}" for status, count in sorted(statuses.items()))
            table.row(name, str(sum(statuses.values())), f"  {told}   {' '.join(self.reasons.get(name, '').split())}")
        for fault, count in Counter(self.faults).most_common(20):
            print(f"FAULT ({count}): {fault}")
        times = np.percentile(self.seconds, [50, 99]) if self.seconds else [0.0, 0.0]
        return {
            "requests": requests,
            "seconds": round(spent, 1),
            "requests_per_second": round(requests / spent, 1),
            "good_p50_ms": round(1000 * float(times[0]), 1),
            "good_p99_ms": round(1000 * float(times[1]), 1),
            "told_to_come_again": self.again,
            "faults": len(self.faults),
            "memory_growth": {name: round(grown, 3) for name, grown in self.growth.items()},
            "worker_starts": counted.get("dinomill_worker_starts_total", -1.0),
            "images": counted.get("dinomill_worker_images_total", -1.0),
        }


def alike(served: Sequence[Any], expected: Floats) -> bool:
    """Whether these are the network's own embeddings."""
    try:
        got = np.asarray(served, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    if got.shape != expected.shape:
        return False
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    return bool(((got * expected).sum(axis=1) / norms).min() >= _MIN_COSINE)


def photographs(chance: random.Random, count: int = 120) -> list[bytes]:
    """JPEGs of 224 to 500 pixels, cut from scikit-image's photographs."""
    from skimage import data

    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    found = []
    for number in range(count):
        pixels = sources[number % len(sources)]
        height, width = (min(chance.randint(224, 500), side) for side in pixels.shape[:2])
        top, left = chance.randint(0, pixels.shape[0] - height), chance.randint(0, pixels.shape[1] - width)
        out = io.BytesIO()
        Image.fromarray(pixels[top : top + height, left : left + width]).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def random_backbone(folder: Path) -> Path:
    """A small network that gives something else for each image."""
    import torch

    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone, variant

    torch.manual_seed(0)
    model = build(variant("nano", patch_size=8, image_size=64, layerscale=1.0))
    save_backbone(folder, model, PreprocessingConfig.square(64, (0.5,) * 3, (0.25,) * 3).section())
    return folder


if __name__ == "__main__":
    main()
