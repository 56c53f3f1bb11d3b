"""What a second student costs in the same pass of the teacher: CPU-seconds of a step, in turns.

    python benchmarks/several_students.py [--teacher base] [--side 112] [--batch 8] [--rounds 4]

Steps of a distillation by regression, of the shapes that the command line names and made-up images: a student alone, a
smaller one alone, both from one pass of the teacher, and both from features that were kept. Weights are random: what a
step costs does not depend on them. The last line is JSON.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import Table, command_line, finish
from trainings import HERE, gratings, write_dataset

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import distillation_job
from dinomill.handles import DatasetHandle
from dinomill.images.batches import Batch
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.training.engine import Engine
from dinomill.training.loading import build_loader
from dinomill.training.teacher_cache import fill

STUDENTS: dict[str, dict[str, Any]] = {
    "larger": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "smaller": {"embed_dim": 128, "depth": 6, "num_heads": 2},
}
RUNS = {"larger": ["larger"], "smaller": ["smaller"], "both": ["larger", "smaller"]}
_IMAGES, _WARM = 64, 2


def main() -> None:
    parser = command_line(__doc__, "small shapes, one round")
    parser.add_argument("--teacher", default="base", help="small, base or large")
    parser.add_argument("--side", type=int, default=112, help="of the global crops, pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--rounds", type=int, default=4, help="steps of each that are timed, in turns")
    options = parser.parse_args()
    if options.smoke:
        options.teacher, options.side, options.batch, options.rounds = "nano", 28, 2, 1
    with tempfile.TemporaryDirectory() as folder:
        finish(measured(options, Path(folder)), smoke=options.smoke)


def measured(options: Namespace, folder: Path) -> dict[str, Any]:
    """Medians of the CPU-seconds of a step, and their ratios."""
    dataset = write_dataset(folder / "curated", gratings(_IMAGES, options.side)[0])
    teacher = folder / "teacher"
    teacher.mkdir()
    model = VisionTransformer(variant(options.teacher, image_size=options.side, patch_size=14))
    shown = PreprocessingConfig.square(options.side, dataset.mean, dataset.std)
    save_backbone(teacher, model, extra=shown.section())
    running = {name: steps(options, dataset, teacher, folder, chosen) for name, chosen in RUNS.items()}
    running["both, features kept"] = steps(options, dataset, teacher, folder, RUNS["both"], kept=True)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for number in range(_WARM + options.rounds):
        for name, run in running.items():
            taken = next(run)
            if number >= _WARM:
                seconds[name].append(taken)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    table = Table("CPU-s a step", "of larger")
    for name, median in medians.items():
        table.row(name, f"{median:.3f}", f"{median / medians['larger']:.2f}")
    figures = {name.replace(", ", "_").replace(" ", "_"): round(value, 4) for name, value in medians.items()}
    return {**figures, "both_over_larger": round(medians["both"] / medians["larger"], 3)}


def steps(
    options: Namespace, dataset: DatasetHandle, teacher: Path, folder: Path, chosen: list[str], *, kept: bool = False
) -> Iterator[float]:
    """Train step by step; gives the CPU-seconds of each."""
    values: dict[str, Any] = {
        "work": folder / "work" / "-".join(chosen),
        "output": folder / "output",
        "teacher": str(teacher),
        "objective": "regression",
        "teacher_images": 16,
        "steps": 1000,
        "batch_size": options.batch,
        "students": {name: {"patch_size": 14, **STUDENTS[name]} for name in chosen},
        "crops": {"global_size": options.side, "local_size": options.side // 28 * 14, "local_crops": 2},
        "step": {"losses": {"koleo_weight": 0.0}},
        "runtime": {"device": "cpu", "monitor": {"every": 0}},
        "cache": {"folder": folder / "kept", "views": 1} if kept else None,
    }
    job = distillation_job(dataset, None, None, DistillationConfig.parse(values, where="the benchmark"))
    fill(job, dataset, HERE, lambda: False)
    engine = Engine(job, HERE)
    with build_loader(job, dataset, HERE, start_step=0) as loader:
        batches: list[Batch] = [batch for batch, _ in zip(loader, range(4), strict=False)]
    for number in range(1000):
        started = time.process_time()
        engine.step(number, [batches[number % len(batches)]])
        yield time.process_time() - started


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
