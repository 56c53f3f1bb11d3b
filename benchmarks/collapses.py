"""Trainings made to go wrong on purpose, and healthy ones: what the monitor's verdict says, and how soon.

    python benchmarks/collapses.py [--curated data/05_model_input/curated]     # after `make run` or the curation stage

The sample's recipe with its own monitor, without labels, up to a fifth of its steps:

    no centering        neither Sinkhorn-Knopp nor a centre: the teacher's softmax as it is
    rate x 100          schedule.learning_rate
    one constant image  as the whole dataset
    masked term x 20    step.losses.ibot_weight

and whole with five seeds. "No centering" is no key of the configuration, and must not become one: this script stops
the centre of `centering: softmax` from moving, in its own process.

A table; the last line is JSON: for each run the first bad verdict with its step, or none.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import command_line, finish
from trainings import TINY, gratings, looks, run, sample_job, write_dataset

from dinomill.handles import DatasetHandle
from dinomill.training.centering import Centering
from dinomill.training.health import State

SHARE = 0.2  # of the steps, before which a run that goes wrong is to be told
SEEDS = 5
NO_CENTERING, RATE, CONSTANT, MASKED = "no centering", "rate x 100", "one constant image", "masked term x 20"
CHANGES: dict[str, dict[str, Any]] = {
    NO_CENTERING: {"step": {"centering": {"kind": "softmax"}}},
    RATE: {"schedule": {"learning_rate": 0.4}},
    CONSTANT: {},
    MASKED: {"step": {"losses": {"ibot_weight": 20.0}}},
}
# All looks are wanted, also those after a collapse.
WATCH: dict[str, Any] = {"runtime": {"monitor": {"on_collapse": "warn"}}}


@contextmanager
def unmoved_centre() -> Iterator[None]:
    """The centre stays zero: what `softmax` centering gives then is the teacher's softmax."""
    original = Centering.update
    Centering.update = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Centering.update = original  # type: ignore[method-assign]


def measure(
    name: str, dataset: DatasetHandle, folder: Path, *changes: Mapping[str, Any], share: float = 1.0
) -> dict[str, Any]:
    """Run a training and read its verdicts.

    Args:
        name: What is done to it.
        dataset: What it trains on.
        folder: For its work.
        changes: Of the sample's recipe.
        share: Of its steps that are run.
    """
    job = sample_job(dataset, None, folder / name.replace(" ", "_"), WATCH, *changes)
    steps = job.recipe.steps
    started = time.process_time()
    with unmoved_centre() if name.startswith(NO_CENTERING) else nullcontext():
        error = run(job, until=round(share * steps) if share < 1 else None)
    seen = looks(job)
    bad = next((row for row in seen if State(row["verdict"]).bad), None)
    result: dict[str, Any] = {"steps": steps, "cpu_s": round(time.process_time() - started, 1), "error": error}
    result["verdicts"] = {str(row["step"]): row["verdict"] for row in seen}
    result["bad_at"] = bad and bad["step"]
    result["reason"] = bad and bad["reason"]
    shown = f"{bad['verdict']} after {bad['step']} of {steps} steps: {bad['reason']}" if bad else "never bad: "
    if not bad:
        shown += ", ".join(dict.fromkeys(result["verdicts"].values()))
    print(f"{name:<20} {error or shown}", flush=True)
    return result


def main() -> None:
    parser = command_line(__doc__, "a tiny model for a few steps, on made-up images")
    parser.add_argument("--curated", type=Path, default=Path("data/05_model_input/curated"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="healthy runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        small = TINY if given.smoke else {}
        if given.smoke:
            dataset = write_dataset(folder / "curated", gratings(64, 16)[0])
        else:
            dataset = DatasetHandle.load(given.curated)
        side = 16 if given.smoke else 32
        constant = write_dataset(folder / "constant", [np.full((side, side, 3), 120, dtype=np.uint8)] * 64)
        for name, changes in CHANGES.items():
            chosen = constant if name == CONSTANT else dataset
            results[name] = measure(name, chosen, folder, small, changes, share=SHARE)
        for seed in range(1 if given.smoke else given.seeds):
            results[f"healthy, seed {seed}"] = measure(f"healthy, seed {seed}", dataset, folder, small, {"seed": seed})
    finish(results, smoke=given.smoke)
    if not given.smoke and any((name in CHANGES) != (found["bad_at"] is not None) for name, found in results.items()):
        sys.exit("a verdict is wrong")


if __name__ == "__main__":
    main()
