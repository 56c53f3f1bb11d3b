"""Copies, retrieval and balance on synthetic embeddings with planted components, at two sizes.

    python benchmarks/curation_scale.py [--rows 100000 1000000] [--dimension 384]

A tenth of the rows are copies (cosine about 0.97) of others. What is timed is what curation runs on embeddings, with
``trust_embedding``: neighbours (k = 64), components; retrieval by clusters from 1,000 seeds; hierarchical balance down
to a tenth. Recall of the index is measured against brute force on 1,000 rows, recall of the planted pairs on all of
them. Prints a table and, last, JSON with the growth exponent of the CPU time.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dinomill.curation.balance import BalanceConfig, cluster, share_out
from dinomill.curation.deduplicate import _components
from dinomill.curation.embed import Embeddings
from dinomill.curation.neighbours import Index, SearchConfig
from dinomill.curation.pairs import DeduplicationConfig, Edges, _embedding_candidates
from dinomill.curation.retrieve import SeedSetConfig, retrieve

SHARD = 50_000


def lay_out(folder: Path, rows: int, dimension: int) -> tuple[list[Path], np.ndarray[Any, Any]]:
    """Shards of embeddings in 1,000 groups of very unequal size, and the planted pairs [P, 2]."""
    generator = np.random.default_rng(0)
    groups = generator.standard_normal((1000, dimension)).astype(np.float32)
    weights = 1 / np.arange(1, 1001)
    originals = rows * 9 // 10
    source = np.sort(generator.choice(originals, rows - originals, replace=False))
    paths, taken = [], np.empty((len(source), dimension), dtype=np.float16)
    for start in range(0, rows, SHARD):
        stop = min(start + SHARD, rows)
        fresh = max(0, min(stop, originals) - start)
        home = generator.choice(1000, fresh, p=weights / weights.sum())
        some = groups[home] + generator.standard_normal((fresh, dimension)).astype(np.float32)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
        here = np.flatnonzero((source >= start) & (source < start + fresh))
        taken[here] = some[source[here] - start]
        if start + fresh < stop:
            first = start + fresh - originals
            copied = taken[first : stop - originals].astype(np.float32)
            noise = generator.standard_normal(copied.shape).astype(np.float32) * (0.25 / math.sqrt(dimension))
            some = np.concatenate([some, copied + noise])
        some /= np.linalg.norm(some, axis=1, keepdims=True)
        paths.append(folder / f"{start}.npy")
        np.save(paths[-1], some.astype(np.float16))
    return paths, np.stack([source, np.arange(originals, rows)], axis=1)


def measure(rows: int, dimension: int) -> dict[str, float]:
    """Seconds of each step, recalls and peak memory at one size."""
    found: dict[str, float] = {"rows": rows}
    with tempfile.TemporaryDirectory() as room:
        paths, planted = lay_out(Path(room), rows, dimension)
        vectors = Embeddings(paths)
        every = np.arange(rows)
        config = DeduplicationConfig(trust_embedding=True, cosine=0.9)
        start, cpu = time.perf_counter(), time.process_time()
        left, right, cosine = _embedding_candidates(
            vectors, every, every, np.zeros(rows, dtype=np.bool_), config, lambda _: None
        )
        close = cosine >= config.cosine
        edges = Edges(left[close], right[close], np.ones(int(close.sum()), dtype=np.bool_))
        component = _components(edges, every)
        found["deduplicate_s"] = time.perf_counter() - start
        found["pair_recall"] = float((component[planted[:, 0]] == component[planted[:, 1]]).mean())
        start = time.perf_counter()
        seeds, candidates = every[:1000], every[1000:]
        asked = SeedSetConfig(mode="cluster", cells=max(64, round(math.sqrt(rows))), minimum_seeds=2)
        found["retrieved"] = int(retrieve(vectors, candidates, seeds, asked, SearchConfig(), 0).wanted.sum())
        found["retrieve_s"] = time.perf_counter() - start
        start = time.perf_counter()
        levels = (max(256, round(2 * math.sqrt(rows))), max(64, round(math.sqrt(rows) / 4)))
        clusters = cluster(vectors, every, BalanceConfig(levels=levels))
        found["balanced"] = int(share_out(clusters, rows // 10, 0).sum())
        found["balance_s"] = time.perf_counter() - start
        found["cpu_s"] = time.process_time() - cpu
        found["total_s"] = found["deduplicate_s"] + found["retrieve_s"] + found["balance_s"]
        found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        found["index_recall"] = Index(vectors, every, SearchConfig()).measure_recall(10)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    arguments = parser.parse_args()
    results = []
    for rows in arguments.rows:
        results.append(measure(rows, arguments.dimension))
        print("  ".join(f"{name} {value:,.3f}" for name, value in results[-1].items()), flush=True)
    last = dict(results[-1])
    if len(results) > 1:
        small, large = results[0], results[-1]
        last["growth_exponent"] = math.log(large["cpu_s"] / small["cpu_s"]) / math.log(large["rows"] / small["rows"])
    print(json.dumps({name: round(value, 3) for name, value in last.items()}))


if __name__ == "__main__":
    main()
