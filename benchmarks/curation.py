"""Finding copies among 2,000 photographic JPEGs (see duplicate_pool.py), beside peers, and the cost of embedding.

    benchmarks/contenders/install_curation_peers.sh /tmp/peers
    python benchmarks/curation.py --peers /tmp/peers/bin/python [--rounds 5]

dinomill and the peers take turns, each in a warm process with two workers, from the files to the list of pairs; figures
are medians over the rounds. dinomill does more in its time: sha256, quality measures, channel statistics, a Parquet
table. ``speed_ratio`` is against imagededup's PHash by wall clock, ``speed_ratio_cpu`` by CPU-seconds, which a busy
machine disturbs less. ``embed_efficiency`` is images a CPU-second of the whole embedding step (read, decode, resize,
network, write) over that of the bare network on tensors that are ready. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from dinomill.curation.copies.pairs import DeduplicationConfig, find_edges
from dinomill.curation.embedding.embed import EmbeddingConfig, EmbedTask, embed_shard
from dinomill.curation.embedding.embedders import EmbedderConfig, _load, batch_size, find_network
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.curation.scan.tables import read_files
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.listing import list_items
from dinomill.vectors.index import InMemory
from dinomill.vectors.rows import unit

sys.path.insert(0, str(Path(__file__).parent))
from duplicate_pool import lay_out

PEERS = ("imagededup-phash", "imagededup-dhash", "cleanvision", "fastdup")
SLOW = PEERS[2:]
Pairs = set[frozenset[str]]


def cpu_seconds() -> float:
    """Of this process and all below it, ended ones included."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with_children = process.cpu_times()
        total += with_children.user + with_children.system
        total += with_children.children_user + with_children.children_system
    return total


def find_copies(folder: Path) -> Pairs:
    """What curation does before it embeds: scan, then pairs by content and by signature."""
    with tempfile.TemporaryDirectory() as room:
        found = scan(
            {"pool": [str(folder)]},
            ScanConfig(files_per_task=250),
            folder=Path(room) / "scan",
            work=Path(room) / "work",
            execution=ExecutionConfig(executor="processes", workers=2),
        )
        files = read_files(found, ["path", "pixels"])
        looks = InMemory(unit(np.load(found.signatures)))
    names = files["path"].to_pylist()
    first: dict[str, int] = {}
    pairs: Pairs = set()
    for row, pixels in enumerate(files["pixels"].to_pylist()):
        if pixels in first:
            pairs.add(frozenset((names[first[pixels]], names[row])))
        else:
            first[pixels] = row
    rows = np.array(sorted(first.values()))
    config = DeduplicationConfig(embedding_neighbours=0)
    nothing = np.zeros(len(names), dtype=np.bool_)
    edges = find_edges(looks, looks, np.arange(len(names)), rows, nothing, config)
    return pairs | {frozenset((names[a], names[b])) for a, b in zip(edges.left, edges.right, strict=True)}


class Peer:
    """A peer's process, asked again and again."""

    def __init__(self, python: str, name: str, folder: Path) -> None:
        script = Path(__file__).parent / "contenders" / "find_copies.py"
        self.process = subprocess.Popen(
            [python, str(script), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ready = bool(self._answer())

    def ask(self) -> dict[str, Any]:
        """Let it look once; seconds, CPU-seconds and pairs."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def close(self) -> None:
        """End its process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)


def score(pairs: Pairs, planted: dict[frozenset[str], str]) -> dict[str, float]:
    recall = {}
    for kind in ("exact", "near"):
        wanted = [pair for pair, what in planted.items() if what == kind]
        recall[f"{kind}_recall"] = round(sum(pair in pairs for pair in wanted) / len(wanted), 4)
    return recall | {"false_pairs": len(pairs - set(planted))}


def embed_efficiency(folder: Path, rounds: int, images: int = 128) -> tuple[float, float]:
    """Embedding over the bare network, in turns; and images a CPU-second of embedding.

    Both in one thread, the same batches, precision and memory layout: a worker has one core.
    """
    import torch

    torch.set_num_threads(1)
    config = EmbeddingConfig(embedder=EmbedderConfig(image_size=224))
    network = find_network(config.embedder)
    forward = _load(network, config.embedder).forward
    items = list_items(str(folder))[:images]
    batch = batch_size(config.embedder)
    layout = np.random.default_rng(0).standard_normal((batch, 224, 224, 3)).astype(np.float32)
    ready = layout.transpose(0, 3, 1, 2)
    whole, bare = [], []
    with tempfile.TemporaryDirectory() as room:
        task = EmbedTask(
            images=tuple((str(folder), item) for item in items),
            hashes="",
            network=network,
            embedder=config.embedder,
            folder=Path(room),
        )
        embed_shard(task)
        for _ in range(rounds):
            start = time.process_time()
            embed_shard(task)
            whole.append((time.process_time() - start) / images)
            start = time.process_time()
            for _ in range(images // batch):
                forward(ready)
            bare.append((time.process_time() - start) / images)
    return median(bare) / median(whole), 1 / median(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the Python of the peers' environment; none: dinomill alone")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS, help="some of the peers")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "pool"
        planted = lay_out(folder)
        images = sum(1 for _ in folder.iterdir())
        peers = {name: Peer(arguments.peers, name, folder) for name in arguments.only} if arguments.peers else {}
        peers = {name: peer for name, peer in peers.items() if peer.ready}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("dinomill", *peers)}
        found: dict[str, Pairs] = {"dinomill": find_copies(folder)}  # the first round starts the workers' server
        for name, peer in peers.items():
            if name not in SLOW:
                peer.ask()
        for number in range(arguments.rounds):
            start, cpu = time.perf_counter(), cpu_seconds()
            found["dinomill"] = find_copies(folder)
            times["dinomill"].append((time.perf_counter() - start, cpu_seconds() - cpu))
            for name, peer in peers.items():
                if number and name in SLOW:
                    continue  # ten times slower: once is enough
                answer = peer.ask()
                times[name].append((answer["seconds"], answer["cpu"]))
                found[name] = {frozenset(pair) for pair in answer["pairs"]}
        for peer in peers.values():
            peer.close()
        efficiency, embedded = embed_efficiency(folder, arguments.rounds)
    result = _table(images, times, found, planted)
    print(
        json.dumps(result | {"embed_efficiency": round(efficiency, 3), "embedded_per_cpu_second": round(embedded, 1)})
    )


def _table(
    images: int,
    times: dict[str, list[tuple[float, float]]],
    found: dict[str, Pairs],
    planted: dict[frozenset[str], str],
) -> dict[str, Any]:
    print(f"{'':18}{'images/s':>10}{'images/CPU-s':>14}{'exact':>8}{'near':>8}{'false pairs':>13}")
    rate = {}
    for name, spent in times.items():
        wall, cpu = (images / median(column) for column in zip(*spent, strict=True))
        one = score(found[name], planted)
        rate[name] = (wall, cpu)
        print(
            f"{name:18}{wall:10,.0f}{cpu:14,.0f}{one['exact_recall']:8.3f}{one['near_recall']:8.3f}{one['false_pairs']:13}"
        )
    result: dict[str, Any] = score(found["dinomill"], planted)
    result["images_per_second"] = round(rate["dinomill"][0], 1)
    if "imagededup-phash" in rate:
        result["speed_ratio"] = round(rate["dinomill"][0] / rate["imagededup-phash"][0], 2)
        result["speed_ratio_cpu"] = round(rate["dinomill"][1] / rate["imagededup-phash"][1], 2)
        result["false_pairs_imagededup"] = score(found["imagededup-phash"], planted)["false_pairs"]
    return result


if __name__ == "__main__":
    main()
