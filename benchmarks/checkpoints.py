"""What a checkpoint costs the training: the step that makes one, and the steps while it is written.

A real self-distillation step of a vision transformer with its heads, AdamW and moving averages; every so many steps the
state is kept, as the trainer does it: copied to host memory, then hashed and written by a thread, with an fsync. Shown
are the time of a step, what the copy takes, what the writing takes beside the training (wall time), by how much the
steps meanwhile are slower, and the share of all that in the time between two checkpoints at `checkpoint_every: 1250`,
the default. The same synchronously, as it was before, for comparison.

    python benchmarks/checkpoints.py              ViT-S/14, 2×112 + 4×42, batch 8
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measuring import Table, command_line, finish

from dinomill.models import HeadConfig, VisionTransformer, variant
from dinomill.training.checkpoint import Checkpoints
from dinomill.training.config import OptimizerConfig, PretrainingStepConfig
from dinomill.training.network import Network
from dinomill.training.objectives.pretraining import Pretraining
from dinomill.training.optimizer import build_optimizer
from dinomill.training.parallel import World
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step import train_step

EVERY = 1250  # runtime.checkpoint_every's default
HERE = World(0, 1, torch.device("cpu"))


def main() -> None:
    parser = command_line(__doc__, "a nano model, few steps")
    parser.add_argument("--rounds", type=int, default=3, help="checkpoints that are measured")
    options = parser.parse_args()
    name, prototypes, batch, rounds = ("nano", 256, 2, 1) if options.smoke else ("small", 16_384, 8, options.rounds)
    training = Training(name, prototypes, batch)
    with tempfile.TemporaryDirectory(prefix="dinomill-checkpoints-") as folder:
        figures = measure(training, Path(folder), rounds)
    finish({"model": name, "prototypes": prototypes, "batch": batch, **figures}, smoke=options.smoke)


class Training:
    """A model that makes steps on random crops."""

    def __init__(self, name: str, prototypes: int, batch: int) -> None:
        torch.manual_seed(0)
        head = HeadConfig(prototypes=prototypes)
        network = Network(VisionTransformer(variant(name, patch_size=14, image_size=112)), head, separate_heads=False)
        config = PretrainingStepConfig(head=head, precision="fp32")
        self.module = Pretraining({"student": network}, config).train()
        self.optimizer = build_optimizer(self.module, OptimizerConfig())
        masks = torch.rand(2 * batch, 64) < 0.3
        self._batch: Any = SimpleNamespace(
            global_crops=torch.randn(2 * batch, 3, 112, 112),
            local_crops=torch.randn(4 * batch, 3, 42, 42),
            masks=masks,
            mask_indices=masks.flatten().nonzero()[:, 0],
            mask_weights=(1 / masks.sum(1, keepdim=True).clamp(min=1)).expand_as(masks)[masks],
        )
        self._step = 0

    def step(self) -> float:
        """Make a step; returns its seconds."""
        begun = time.perf_counter()
        values = ScheduleValues(self._step, 1e-4, 1e-4, 0.04, 0.99, 0.05)
        terms = train_step(self.module, self.module, self.optimizer, self._batch, values, clip_gradient=3.0)
        float(terms["total"])
        self._step += 1
        return time.perf_counter() - begun


def measure(training: Training, folder: Path, rounds: int) -> dict[str, Any]:
    """Steps without, with an asynchronous and with a synchronous checkpoint, taken in turn."""
    store = Checkpoints(folder / "checkpoints", world=HERE, identity={})
    alone: list[float] = []
    beside: list[float] = []
    copies: list[float] = []
    writes: list[float] = []
    waits: list[float] = []
    training.step()
    store.save(0, training.module, training.optimizer, last=True)  # the memory for copies is taken once
    for number in range(1, rounds + 1):
        alone += [training.step() for _ in range(3)]
        begun = time.perf_counter()
        store.save(2 * number, training.module, training.optimizer)
        copies.append(time.perf_counter() - begun)
        while store.shelf.steps()[-1] != 2 * number:
            beside.append(training.step())
        writes.append(time.perf_counter() - begun)
        store.finish()
        begun = time.perf_counter()
        store.save(2 * number + 1, training.module, training.optimizer, last=True)
        waits.append(time.perf_counter() - begun)
    size = sum(path.stat().st_size for path in store.shelf.path(2 * rounds + 1).iterdir())
    return shown(size, *(statistics.median(times) for times in (alone, beside, copies, writes, waits)))


def shown(size: int, alone: float, beside: float, copy: float, write: float, wait: float) -> dict[str, Any]:
    """Print the table; returns the figures."""
    lost = copy + max(beside - alone, 0) * max(write - copy, 0) / beside
    between = EVERY * alone
    table = Table("seconds", "of a step", f"of {EVERY:,} steps", name=44)
    for text, seconds in (
        ("a step", alone),
        ("the copy, for which the step waits", copy),
        ("a step while it is written", beside),
        (f"until {size / 1e6:,.0f} MB are on the disk, beside the steps", write),
        ("lost in all: copy and slower steps", lost),
        ("the same, waiting for the disk", wait),
    ):
        table.row(text, f"{seconds:.3f}", f"{seconds / alone:.0%}", f"{seconds / between:.3%}")
    return {
        "megabytes": round(size / 1e6, 1),
        "step_seconds": round(alone, 4),
        "copy_seconds": round(copy, 4),
        "step_beside_seconds": round(beside, 4),
        "written_after_seconds": round(write, 4),
        "synchronous_seconds": round(wait, 4),
        "share_of_training": round(lost / between, 6),
    }


if __name__ == "__main__":
    main()
