"""What a server's clients see when parts of it are killed, its disk is full, or another model takes over.

The container's program serves a small network with two workers. Sixteen plain clients ask without a pause and never
twice; two public clients (dinomill.client) ask as well. Then something is done to the server, and it is written down
how many plain requests failed, with what, for how long none was answered, and whether a public client noticed.

    python benchmarks/serving_kills.py          some minutes
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from signal import SIGHUP
from typing import Any

import psutil
from hostile import alike, photographs, random_backbone
from hostile_kinds import Target, ask
from hostile_server import Served
from hostile_watch import workers_of
from measuring import Table, command_line, finish

from dinomill.client import Client
from dinomill.errors import DinomillError
from dinomill.handles import PackageHandle
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve.properties import ServerConfig

_MODEL = "mill"
_PLAIN, _PUBLIC = 16, 2
_BEFORE, _CALM = 3.0, 5.0  # seconds of asking before, and without a failure after
_WAIT = 240.0
_SMALL_DISK = 24
_LONG = ("TorchServe (Java)", "the leash")


class Load:
    """Clients that ask all the time; as a context manager, they end with the block."""

    def __init__(self, served: Served, images: list[bytes], backbone: Path) -> None:
        self.served, self.images = served, images
        self.expected = Predictor(backbone)(images)
        self.failed: Counter[str] = Counter()
        self.noticed: Counter[str] = Counter()
        self.answered: list[float] = []
        self.last_failure = 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        work = [self._plain] * _PLAIN + [self._public] * _PUBLIC
        self._threads = [threading.Thread(target=one, args=(number,)) for number, one in enumerate(work)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def calm(self) -> None:
        """Wait until nothing has failed for a while, and requests are answered."""
        end = time.monotonic() + _WAIT
        while time.monotonic() < end:
            now = time.monotonic()
            recent = [one for one in self.answered[-50:] if now - one < 1.0]
            if recent and now - self.last_failure > _CALM:
                return
            time.sleep(0.1)
        raise RuntimeError(f"it did not recover: {dict(self.failed)}\n{self.served.said()[-2000:]}")

    def longest_gap(self, since: float) -> float:
        """Seconds without an answer to a plain client."""
        times = [since, *sorted(one for one in self.answered if one > since), time.monotonic()]
        return max(after - before for before, after in pairwise(times))

    def _plain(self, number: int) -> None:
        chance = random.Random(number)
        target = Target(self.served.port, f"/predictions/{_MODEL}", self.served.token())
        while not self._ended.is_set():
            index = chance.randrange(len(self.images))
            try:
                seen = ask(target, self.images[index])
                found = seen.json() if seen.status == 200 else None
                right = found is not None and alike([found.get("embedding")], self.expected[[index]])
                fault = None if right else ("200, and another embedding" if found else str(seen.status))
            except OSError as error:
                fault = type(error).__name__
            with self._lock:
                if fault is None:
                    self.answered.append(time.monotonic())
                else:
                    self.failed[fault] += 1
                    self.last_failure = time.monotonic()
            if fault is not None:
                time.sleep(0.2)

    def _public(self, number: int) -> None:
        token = self.served.token()
        with Client(f"http://127.0.0.1:{self.served.port}", token=token) as client:
            while not self._ended.is_set():
                index = number % len(self.images)
                try:
                    if not alike(list(client.embed(self.images[index])), self.expected[[index]]):
                        self.noticed["another embedding"] += 1
                except DinomillError as error:
                    self.noticed[str(error).splitlines()[0][:100]] += 1


def main() -> None:
    options = command_line(__doc__, "a worker alone").parse_args()
    cases = {"a worker": kill_worker} if options.smoke else CASES
    rows: list[dict[str, Any]] = []
    table = Table("failed", "gap, s", "noticed", name=34)
    for name, do in cases.items():
        with tempfile.TemporaryDirectory(prefix="dinomill-kills-") as place:
            row = {"what": name, **_case(Path(place), do, _SMALL_DISK if do is fill_disk else None)}
        rows.append(row)
        table.row(name, str(sum(row["failed"].values())), f"{row['gap']:.1f}", str(sum(row["noticed"].values())))
        print(f"    {row['failed']} {row['noticed']}", flush=True)
    if not options.smoke:
        rows += [{"what": name, "said": said} for name, said in refused().items()]
    # A server that starts anew may take longer than a public client waits on a busy machine, which it then says.
    faults = [row["what"] for row in rows if row.get("noticed") and row["what"] not in _LONG]
    finish({"rows": rows, "faults": faults}, smoke=options.smoke)
    sys.exit(1 if faults else 0)


def _case(place: Path, do: Callable[[Served, Path], None], small_disk: int | None) -> dict[str, Any]:
    images = photographs(random.Random(0), 12)
    backbone = random_backbone(place / "backbone")
    config = ServerConfig(workers=2, threads=1)
    width = Predictor(backbone).embed_dim
    with (
        Served(backbone, place, _MODEL, config, width, small_disk) as served,
        Load(served, images, backbone) as load,
    ):
        time.sleep(_BEFORE)
        load.calm()
        started, failed = time.monotonic(), sum(load.failed.values())
        assert failed == 0, load.failed
        do(served, place)
        time.sleep(1.0)
        load.calm()
        return {"failed": dict(load.failed), "gap": round(load.longest_gap(started), 1), "noticed": dict(load.noticed)}


def kill_worker(served: Served, _place: Path) -> None:
    """Kill -9 of one of two."""
    psutil.Process(min(workers_of(served))).kill()


def kill_java(served: Served, _place: Path) -> None:
    """Kill -9 of TorchServe's front end."""
    next(one for one in psutil.Process(served.pid).children(recursive=True) if one.name() == "java").kill()


def kill_leash(served: Served, _place: Path) -> None:
    """Kill -9 of the process that holds TorchServe."""
    below = psutil.Process(served.pid).children(recursive=True)
    next(one for one in below if any("leash.py" in word for word in one.cmdline())).kill()


def take_over(served: Served, place: Path) -> None:
    """The same weights under another version: with another one, embeddings could not be compared."""
    new = place / "new"
    shutil.copytree(served.package, new)
    from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
    from dinomill.storage.hashing import hash_file

    archive = build_archive(
        place / "backbone",
        new / "model_store",
        model=_MODEL,
        version="2",
        batching=BatchingConfig(),
        server=ServerConfig(workers=2, threads=1),
    )
    handle = PackageHandle.load(new)
    handle.model_copy(update={"archive_sha256": hash_file(archive), "version": 2}).save(new)
    served.package.rename(place / "old")
    new.rename(served.package)
    served.signal(SIGHUP)
    end = time.monotonic() + _WAIT
    while "Version 2 answers" not in served.said():
        assert time.monotonic() < end, served.said()
        time.sleep(0.2)


def fill_disk(served: Served, _place: Path) -> None:
    """Not a byte is left for logs; for ten seconds."""
    filler = served.seen / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            pass
        time.sleep(10)
    filler.unlink()


CASES: dict[str, Callable[[Served, Path], None]] = {
    "a worker": kill_worker,
    "TorchServe (Java)": kill_java,
    "the leash": kill_leash,
    "another version takes over": take_over,
    "the disk is full": fill_disk,
}


def refused() -> dict[str, str]:
    """What a server says to packages that it does not serve."""
    said = {}
    for name in ("archive damaged", "archive of another version"):
        with tempfile.TemporaryDirectory(prefix="dinomill-kills-") as folder:
            place = Path(folder)
            backbone = random_backbone(place / "backbone")
            served = Served(backbone, place, _MODEL, ServerConfig(workers=1), Predictor(backbone).embed_dim)
            archive = served.package / "model_store" / f"{_MODEL}.mar"
            content = bytearray(archive.read_bytes())
            content[len(content) // 2] ^= 1
            archive.write_bytes(content if name == "archive damaged" else archive.read_bytes() + b"\0")
            try:
                with served:
                    said[name] = "served"
            except RuntimeError as error:
                said[name] = next((line for line in str(error).splitlines() if line.startswith("error")), str(error))
        print(f"{name}: {said[name]}", flush=True)
    return said


if __name__ == "__main__":
    main()
