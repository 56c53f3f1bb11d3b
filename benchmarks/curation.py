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

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from duplicate_pool import lay_out
from measuring import Peer, PeerFailedError, Spent, Table, command_line, finish, timed, timed_here

from dinomill.curation.copies.pairs import DeduplicationConfig, Pictures, find_edges
from dinomill.curation.embedding.embed import EmbeddingConfig, EmbedTask, embed_shard
from dinomill.curation.embedding.embedders import EmbedderConfig, _load, batch_size, find_network
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.curation.scan.signatures import BRIGHTNESS, Colours
from dinomill.curation.scan.tables import read_files
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.listing import list_items
from dinomill.storage.hashing import hash_file
from dinomill.vectors.index import InMemory
from dinomill.vectors.rows import unit

FIND_COPIES = Path(__file__).parent / "contenders" / "find_copies.py"
PEERS = ("imagededup-phash", "imagededup-dhash", "cleanvision", "fastdup")
SLOW = PEERS[2:]
Pairs = set[frozenset[str]]


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
        files = read_files(found, ["path", "pixels", "width", "height"])
        stored = np.load(found.signatures)
        looks, colours = InMemory(unit(stored[:, :BRIGHTNESS])), Colours(found.signatures)
        area = files["width"].to_numpy().astype(np.int64) * files["height"].to_numpy()
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
    pictures = Pictures(colours, area)
    edges = find_edges(looks, looks, np.arange(len(names)), rows, nothing, config, pictures=pictures)
    return pairs | {frozenset((names[a], names[b])) for a, b in zip(edges.left, edges.right, strict=True)}


def start_peers(python: str, names: Sequence[str], folder: Path) -> dict[str, Peer]:
    """Those of the peers that are installed; what is wrong with the others is said."""
    peers = {}
    for name in names:
        try:
            peers[name] = Peer(name, [python, str(FIND_COPIES), name, str(folder)])
        except PeerFailedError as error:
            print(f"{name} is left out: {str(error).splitlines()[-1]}")
    return peers


def score(pairs: Pairs, planted: dict[frozenset[str], str]) -> dict[str, float]:
    recall = {}
    for kind in ("exact", "near"):
        wanted = [pair for pair, what in planted.items() if what == kind]
        recall[f"{kind}_recall"] = round(sum(pair in pairs for pair in wanted) / len(wanted), 4)
    return recall | {"false_pairs": len(pairs - set(planted))}


def embed_efficiency(folder: Path, rounds: int, images: int = 128, side: int = 224) -> tuple[float, float]:
    """Embedding over the bare network, in turns; and images a CPU-second of embedding.

    Both in one thread, the same batches, precision and memory layout: a worker has one core.
    """
    import torch

    torch.set_num_threads(1)
    config = EmbeddingConfig(embedder=EmbedderConfig(image_size=side))
    network = find_network(config.embedder)
    forward = _load(network, config.embedder).forward
    items = list_items(str(folder))[:images]
    batch = batch_size(config.embedder)
    layout = np.random.default_rng(0).standard_normal((batch, side, side, 3)).astype(np.float32)
    ready = layout.transpose(0, 3, 1, 2)
    whole, bare = [], []
    with tempfile.TemporaryDirectory() as room:
        task = EmbedTask(
            images=tuple((str(folder), item) for item in items),
            hashes=tuple(hash_file(folder / item.path) for item in items),
            network=network,
            embedder=config.embedder,
            folder=Path(room),
        )
        embed_shard(task)
        for _ in range(rounds):
            whole.append(timed_here(lambda: embed_shard(task))[1] / images)
            bare.append(timed_here(lambda: [forward(ready) for _ in range(images // batch)])[1] / images)
    return median(bare) / median(whole), 1 / median(whole)


def compare(folder: Path, peers: dict[str, Peer], rounds: int) -> tuple[dict[str, list[Spent]], dict[str, Pairs]]:
    """Let all take turns; what each round of each took, and the pairs that it found."""
    times: dict[str, list[Spent]] = {name: [] for name in ("dinomill", *peers)}
    found: dict[str, Pairs] = {"dinomill": find_copies(folder)}  # the first round starts the workers' server
    for name, peer in peers.items():
        if name not in SLOW:
            peer.ask()
    for number in range(rounds):
        found["dinomill"], spent = timed(lambda: find_copies(folder))
        times["dinomill"].append(spent)
        for name, peer in peers.items():
            if number and name in SLOW:
                continue  # ten times slower: once is enough
            answer = peer.ask()
            times[name].append(Spent(answer["seconds"], answer["cpu"]))
            found[name] = {frozenset(pair) for pair in answer["pairs"]}
    return times, found


def show(
    images: int, times: dict[str, list[Spent]], found: dict[str, Pairs], planted: dict[frozenset[str], str]
) -> dict[str, Any]:
    """Print the table; dinomill's figures, and its ratios to imagededup's PHash where that was there."""
    table = Table("images/s", "images/CPU-s", "exact", "near", "false pairs", name=18)
    rate = {}
    for name, spent in times.items():
        wall, cpu = (images / median(column) for column in zip(*spent, strict=True))
        one = score(found[name], planted)
        rate[name] = (wall, cpu)
        recall = (f"{one[kind]:.3f}" for kind in ("exact_recall", "near_recall"))
        table.row(name, f"{wall:,.0f}", f"{cpu:,.0f}", *recall, f"{one['false_pairs']:,}")
    result: dict[str, Any] = score(found["dinomill"], planted)
    result["images_per_second"], result["images_per_cpu_second"] = (round(one, 1) for one in rate["dinomill"])
    if "imagededup-phash" in rate:
        result["speed_ratio"] = round(rate["dinomill"][0] / rate["imagededup-phash"][0], 2)
        result["speed_ratio_cpu"] = round(rate["dinomill"][1] / rate["imagededup-phash"][1], 2)
        result["false_pairs_imagededup"] = score(found["imagededup-phash"], planted)["false_pairs"]
    return result


def main() -> None:
    parser = command_line(__doc__, "80 images, one round, embedding at 64 pixels")
    parser.add_argument("--peers", help="the Python of the peers' environment; none: dinomill alone")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS, help="some of the peers")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rounds = 1 if arguments.smoke else arguments.rounds
    if not arguments.peers:
        print("No peer is asked: none is named with --peers.")
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "pool"
        planted = lay_out(folder, 60, 10, 10) if arguments.smoke else lay_out(folder)
        images = sum(1 for _ in folder.iterdir())
        peers = start_peers(arguments.peers, arguments.only, folder) if arguments.peers else {}
        try:
            times, found = compare(folder, peers, rounds)
        finally:
            for peer in peers.values():
                peer.close()
        small = {"images": 64, "side": 64} if arguments.smoke else {}
        efficiency, embedded = embed_efficiency(folder, rounds, **small)
    result = show(images, times, found, planted)
    result |= {"embed_efficiency": round(efficiency, 3), "embedded_per_cpu_second": round(embedded, 1)}
    finish(result, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
