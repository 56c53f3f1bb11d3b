"""Copies, retrieval and balance on synthetic embeddings with planted components, at two sizes, against brute force.

    OMP_NUM_THREADS=2 python benchmarks/curation_scale.py [--rows 100000 1000000] [--dimension 384]

What is timed is what curation runs on embeddings (``trust_embedding``): the 64 nearest above cosine 0.9, and who
stays; retrieval of 1,000 seeds by clusters and by sampling; hierarchical balance down to a tenth. Every step
gets all rows, so its input is larger than it would be in a run.

Recall is measured against brute force on sampled rows, besides what the search measures itself. CPU-seconds are those
of the process and its workers; peak memory is the largest sum of their proportional set sizes, looked at twice a second
(mapped files count). Prints a line a step and, last, JSON. Each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measuring import command_line, cpu_seconds, finish

from dinomill.curation.copies.pairs import DeduplicationConfig, embedding_candidates
from dinomill.curation.copies.stays import Pairs, Verdict, settle
from dinomill.curation.embedding.embed import Embeddings
from dinomill.curation.selection.balance import BalanceConfig, cluster, cluster_table, share_out
from dinomill.curation.selection.retrieve import SeedSetConfig, retrieve
from dinomill.execution.tasks import ExecutionConfig
from dinomill.vectors.cells import open_cells, write_cells
from dinomill.vectors.index import Index, SearchConfig, exact_similarity
from dinomill.vectors.products import brute_force
from dinomill.vectors.self_join import Scratch

SHARD = 50_000
GROUPS = 1_000
COSINE = 0.9
Array = np.ndarray[Any, Any]


def lay_out(folder: Path, rows: int, dimension: int, spread: str) -> tuple[list[Path], Array]:
    """Shards of embeddings, and the number of the original that each row is a copy of (or its own).

    Nine tenths are originals in 1,000 groups of very unequal size (1/rank), a tenth are copies of some of them: one
    as a rule, up to 200, at cosine 0.97 to the original and 0.94 to each other. A hundredth are look-alikes of others,
    at 0.85, which are no copies. ``spread`` says how the images of a group differ: in every direction alike
    (``isotropic``: nearest neighbours then hardly differ from any others, the hardest case for an index), or mostly in
    24 directions of falling weight, as features of real images do (``natural``).
    """
    generator = np.random.default_rng(0)
    groups = _normal(generator, (GROUPS, dimension))
    bases = _normal(generator, (GROUPS, 24, dimension)) * (1 / np.sqrt(np.arange(1, 25, dtype=np.float32)))[:, None]
    share = 1 / np.arange(1, GROUPS + 1)
    originals = rows * 9 // 10
    copies = np.minimum(generator.zipf(2.0, rows), 200)
    copies = copies[: int(np.searchsorted(np.cumsum(copies), rows - originals)) + 1]
    source = np.repeat(generator.choice(originals, len(copies), replace=False), copies)[: rows - originals]
    component = np.concatenate([np.arange(originals), source])
    place = generator.permutation(rows)  # copies anywhere, as in a pool
    originals_first = np.empty((originals, dimension), dtype=np.float16)
    for start in range(0, originals, SHARD):
        home = generator.choice(GROUPS, min(SHARD, originals - start), p=share / share.sum())
        if spread == "isotropic":
            own = _normal(generator, (len(home), dimension))
        else:
            own = 0.3 * _normal(generator, (len(home), dimension))
            weight = _normal(generator, (len(home), 24)) / np.float32(math.sqrt(4))
            for group in np.unique(home):
                here = home == group
                own[here] += weight[here] @ bases[group]
        originals_first[start : start + len(home)] = _unit(groups[home] + own)
    alike = generator.choice(originals // 2, rows // 100, replace=False)  # look-alikes: close, but no copies
    noise = _normal(generator, (len(alike), dimension)) * np.float32(0.62 / math.sqrt(dimension))
    originals_first[-len(alike) :] = _unit(originals_first[alike].astype(np.float32) + noise)
    every = np.empty((rows, dimension), dtype=np.float16)
    for start in range(0, rows, SHARD):
        some = originals_first[component[start : start + SHARD]].astype(np.float32)
        copied = np.arange(start, start + len(some)) >= originals
        noise = _normal(generator, (int(copied.sum()), dimension)) * np.float32(0.25 / math.sqrt(dimension))
        some[copied] += noise
        every[place[start : start + SHARD]] = _unit(some)
    moved = np.empty(rows, dtype=np.int64)
    moved[place] = component
    paths = []
    for start in range(0, rows, SHARD):
        paths.append(folder / f"{start:010d}.npy")
        np.save(paths[-1], every[start : start + SHARD])
    return paths, moved


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.standard_normal(shape, dtype=np.float32)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


class Meter:
    """CPU-seconds, seconds and peak memory of steps, workers included."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        wall, cpu, self._peak = time.perf_counter(), cpu_seconds(), 0.0
        yield
        self.steps[name] = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": cpu_seconds() - cpu,
            "peak_gb": max(self._peak, _memory()) / 1e9,
        }
        print(f"  {name}: " + ", ".join(f"{key} {value:,.2f}" for key, value in self.steps[name].items()), flush=True)

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, _memory())
            time.sleep(0.5)


def _memory() -> float:
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def measure(folder: Path, extras: set[str]) -> dict[str, Any]:
    """All steps on the shards in a folder."""
    paths = sorted(folder.glob("*.npy"))
    vectors, planted = Embeddings(paths), np.load(folder / "planted" / "component.npy")
    rows = len(vectors)
    every = np.arange(rows)
    sample = np.sort(np.random.default_rng(123).choice(rows, min(2_000, rows), replace=False))
    scratch = Scratch(folder / "work", folder.name, ExecutionConfig())
    meter = Meter()
    truth = brute_force(vectors.take(sample), vectors, every, 65)
    others = truth.only(truth.row != sample[truth.query])
    found: dict[str, Any] = {"rows": rows}

    config = DeduplicationConfig(trust_embedding=True, cosine=COSINE)
    with meter.step("copies"):
        left, right, search = embedding_candidates(vectors, every, COSINE, config, scratch)
        verdict = _verdict(vectors, left, right)
        edges = Pairs(left, right, verdict.distance).only(verdict.copies)
        stays = settle(edges, every, np.zeros(rows, dtype=np.bool_), partial(_verdict, vectors)).stays
    found["search"] = search.model_dump()
    found["planted_recall"] = _planted_recall(stays, planted)
    mixed = np.unique(stays * rows + planted) // rows
    found["wrongly_joined"] = int((np.bincount(mixed) > 1).sum())
    found["kept"] = int((stays == every).sum())
    found["pair_recall"], found["pairs_checked"] = _pair_recall(vectors, sample, others, left, right)

    seeds, candidates = every[:1000], every[1000:]
    cells = max(64, round(math.sqrt(rows)))
    with meter.step("retrieval"):
        clusters = SeedSetConfig(mode="cluster", cells=cells, minimum_seeds=2)
        by_cluster = retrieve(vectors, candidates, seeds, clusters, SearchConfig(), 0)
        by_sample = retrieve(vectors, candidates, seeds, SeedSetConfig(mode="sample"), SearchConfig(), 0)
    found["retrieved"] = [int(by_cluster.wanted.sum()), int(by_sample.wanted.sum())]
    found["retrieval_agreement"] = _retrieval_agreement(
        vectors, candidates, seeds, by_cluster.nearest, by_sample.wanted
    )

    levels = (max(256, round(2 * math.sqrt(rows))), max(64, round(math.sqrt(rows) / 4)))
    with meter.step("balance"):
        levels_of = cluster(vectors, every, BalanceConfig(levels=levels))
        chosen = share_out(levels_of, rows // 10, 0)
    sizes = cluster_table(levels_of, chosen)
    found["clusters"] = list(levels)
    for when in ("before", "after"):
        found[f"sizes_{when}"] = np.quantile(sizes[when].to_numpy(), [0, 0.1, 0.5, 0.9, 1]).astype(int).tolist()
        found[f"entropy_{when}"] = _entropy(sizes[when].to_numpy())

    timed = list(meter.steps.values())
    found["wall_s"], found["cpu_s"] = (sum(step[key] for step in timed) for key in ("wall_s", "cpu_s"))
    if "neighbours" in extras:
        found["neighbours"] = _neighbours_in_cells(vectors, sample, others, folder / "cells")
    if "index" in extras:
        with meter.step("index"):
            found["index"] = Index(vectors, every, SearchConfig(exact_up_to=0)).report(10).model_dump()
    found["steps"] = meter.steps
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    found["peak_gb"] = max(own, *(step["peak_gb"] for step in meter.steps.values()))
    return found


def _verdict(vectors: Embeddings, left: Array, right: Array) -> Verdict:
    """Copies are what is close enough: what ``trust_embedding`` asks."""
    cosine = exact_similarity(vectors, left, right)
    return Verdict(cosine >= COSINE, nothing := np.zeros(len(left), dtype=np.bool_), 1 - cosine, nothing)


def _planted_recall(stays: Array, planted: Array) -> float:
    """The share of planted copies for which the same row stays as for their original."""
    order = np.argsort(planted, kind="stable")
    same = planted[order[1:]] == planted[order[:-1]]
    return float((stays[order[1:]] == stays[order[:-1]])[same].mean())


def _pair_recall(vectors: Embeddings, sample: Array, others: Any, left: Array, right: Array) -> tuple[float, int]:
    """The share of the pairs above the threshold that brute force finds for the sampled rows, and their number."""
    query, row = sample[others.query], others.row
    close = exact_similarity(vectors, query, row) >= COSINE
    query, row = query[close], row[close]
    keys = left * len(vectors) + right
    hits = np.isin(np.minimum(query, row) * len(vectors) + np.maximum(query, row), keys)
    return float(hits.mean()), len(hits)


def _neighbours_in_cells(vectors: Embeddings, sample: Array, others: Any, folder: Path) -> dict[str, list[float]]:
    """Of all 10 and 64 nearest by brute force, however far: the share in the cells that a row looks at."""
    write_cells(vectors, np.arange(len(vectors)), SearchConfig().cell_rows, 0, folder=folder)
    cells = open_cells(folder)
    cell_of = np.empty(len(vectors), dtype=np.int64)
    cell_of[cells.order] = np.repeat(np.arange(len(cells.centres)), np.diff(cells.starts))
    scores = vectors.take(sample) @ cells.centres.T
    scores[np.arange(len(sample)), cell_of[sample]] = 2  # its own cell in any case
    rank = np.argsort(np.argsort(-scores, axis=1), axis=1)
    found: dict[str, list[float]] = {"cells": [len(cells.centres)], "looked_at": [16, 32, 64, 128, 256]}
    for k in (10, 64):
        query, row = _first(k, others.query, others.row)
        found[f"recall_at_{k}"] = [float((rank[query, cell_of[row]] < n).mean()) for n in found["looked_at"]]
    return found


def _first(k: int, query: Array, row: Array) -> tuple[Array, Array]:
    """The first k of each query; a query's rows lie together, best first."""
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    rank = np.arange(len(query)) - np.repeat(starts, np.diff(starts, append=len(query)))
    return query[rank < k], row[rank < k]


def _retrieval_agreement(
    vectors: Embeddings, candidates: Array, seeds: Array, nearest: Array, wanted: Array
) -> list[float]:
    """Share of sampled candidates whose nearest seed is brute force's; share of the seeds' nearest that are wanted."""
    some = np.sort(np.random.default_rng(5).choice(len(candidates), min(2_000, len(candidates)), replace=False))
    exact = vectors.take(candidates[some]).astype(np.float64) @ vectors.take(seeds).astype(np.float64).T
    chosen = exact[np.arange(len(some)), nearest[some] - seeds[0]]
    few = brute_force(vectors.take(seeds[:200]), vectors, candidates, 1)
    return [float((chosen >= exact.max(axis=1) - 1e-6).mean()), float(wanted[few.row - candidates[0]].mean())]


def _entropy(sizes: Array) -> float:
    share = sizes[sizes > 0] / sizes.sum()
    return float(-(share * np.log2(share)).sum())


def main() -> None:
    parser = command_line(__doc__, "2,500 and 5,000 rows of 32 numbers")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--spread", choices=["isotropic", "natural"], default="isotropic")
    parser.add_argument("--neighbours", action="store_true", help="also recall@10 and @64 by cells looked at")
    parser.add_argument("--index", action="store_true", help="also the recall of the FAISS index")
    parser.add_argument("--folder", type=Path, help="for the data; as a rule a temporary folder")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lay-out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.dimension = [2_500, 5_000], 32
    extras = {name for name in ("neighbours", "index") if getattr(arguments, name)}
    if arguments.lay_out:
        _, component = lay_out(arguments.lay_out, arguments.rows[0], arguments.dimension, arguments.spread)
        (arguments.lay_out / "planted").mkdir()
        np.save(arguments.lay_out / "planted" / "component.npy", component)
        return
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, extras)))
        return
    results = [_one_size(rows, arguments, extras) for rows in arguments.rows]
    last = dict(results[-1])
    if len(results) > 1:
        last["growth_exponent"] = _growth(results[0], results[-1], "cpu_s")
        for name, step in last["steps"].items():
            step["growth_exponent"] = _growth(
                results[0]["steps"][name], step, "cpu_s", results[-1]["rows"] / results[0]["rows"]
            )
    finish(last, smoke=arguments.smoke)


def _growth(small: dict[str, Any], large: dict[str, Any], key: str, factor: float | None = None) -> float:
    return math.log(large[key] / small[key]) / math.log(factor or large["rows"] / small["rows"])


def _one_size(rows: int, arguments: argparse.Namespace, extras: set[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as room:
        common = [sys.executable, __file__, "--rows", str(rows), "--dimension", str(arguments.dimension)]
        subprocess.run([*common, "--spread", arguments.spread, "--lay-out", room], check=True)
        print(f"{rows:,} rows, {arguments.spread}, load {os.getloadavg()[0]:.1f}", flush=True)
        flags = [f"--{name}" for name in sorted(extras)]
        process = subprocess.Popen([*common, *flags, "--measure", room], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
        if process.wait():
            raise SystemExit(process.returncode)
    result: dict[str, Any] = json.loads(lines[-1])
    return result


if __name__ == "__main__":
    main()
