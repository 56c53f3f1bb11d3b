"""How a contender talks to the benchmark: it says `ready`, then answers each line on stdin with one JSON line.

It needs nothing but torch and numpy, so that a peer's own environment can run it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

PATCH = 14


@dataclass(frozen=True)
class Work:
    """What every contender of a row does a step of."""

    model: str
    batch: int
    global_size: int
    local_size: int
    locals: int
    prototypes: int
    precision: str
    compile: bool
    device: str
    drop_path: float = 0.3
    recomputed: float = 0.0  # share of blocks whose activations are computed again; dinomill's alone
    count: bool = False

    def crops(self, seed: int) -> list[torch.Tensor]:
        """Two global and the local crops, [B, 3, H, W] each."""
        random = torch.Generator().manual_seed(seed)
        sizes = [self.global_size] * 2 + [self.local_size] * self.locals
        return [torch.randn(self.batch, 3, size, size, generator=random) for size in sizes]

    def masks(self, seed: int) -> torch.Tensor:
        """[2B, N] bool: half of the global crops masked, a tenth to a half of their patches, as in the recipe."""
        random = np.random.default_rng(seed)
        crops, patches = 2 * self.batch, (self.global_size // PATCH) ** 2
        masks = np.zeros((crops, patches), dtype=bool)
        for row, share in enumerate(random.permutation(np.linspace(0.1, 0.5, crops // 2))):
            masks[row, random.permutation(patches)[: int(share * patches)]] = True
        return torch.from_numpy(random.permutation(masks))


def read_work() -> Work:
    """The row from the command line: one JSON object. Sets the number of threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=json.loads)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return Work(**arguments.work)


class Pace:
    """Waits for the word before each step and measures the step that ends."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        # Whatever a contender prints must not be taken for an answer.
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def wait(self) -> None:
        """Block until the next step is due; leaves the process when there is none."""
        if not sys.stdin.readline().strip():
            sys.exit(0)
        self._start = self._now()

    def done(self, loss: float, **more: object) -> None:
        """Report the step that just ended, with what else is known of it."""
        wall, cpu = (end - start for end, start in zip(self._now(), self._start, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self._cuda:
            peak = torch.cuda.max_memory_allocated()
        self._say({"wall": wall, "cpu": cpu, "peak_bytes": peak, "loss": loss, **more})

    def ready(self) -> None:
        """Say that the first step may be asked for."""
        self._say({"ready": True})

    def _say(self, answer: dict[str, object]) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)

    def _now(self) -> tuple[float, float]:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def run(work: Work, step: Callable[[int], torch.Tensor]) -> None:
    """Serve steps until stdin ends; with ``count`` the operations of their products are counted instead."""
    pace = Pace(work.device)
    pace.ready()
    index = 0
    while True:
        pace.wait()
        if work.count:
            # Loaded here alone: it is no part of what a step needs, and takes memory.
            from torch.utils.flop_counter import FlopCounterMode

            with FlopCounterMode(display=False) as counter:
                loss = step(index)
            pace.done(float(loss), flops=counter.get_total_flops())
        else:
            pace.done(float(step(index)))
        index += 1
