"""How many images would help: `python benchmarks/curated_shares.py`, after a run's curation.

    python benchmarks/curated_shares.py [--shares 0.125,0.25,0.5,1] [--seeds 2] [--steps N] [--environment base]
    kedro run --pipelines reporting                                                 # draws them on the page

Trains the environment's pretraining anew on shares of its curated set, each for as many steps, and scores the class of
labelled images by their neighbours (the protocol `knn`; queries are the split `test`). Shares of one seed are nested:
the images of a smaller one lie in the larger. A smaller share is seen more often, never for longer, so that what
differs is how many different images there were.

Killed and started again it continues: finished trainings stand in <work>/results.jsonl, others have their checkpoints.
A table for people; the last line is JSON. The report draws the results of the longest trainings that are there
(`reporting.curated_shares`); DVC does not know of them.

<work>/results.jsonl    a line a training: data, share, images, seed, steps, knn
<work>/<hash>/          datasets and checkpoints; may be removed
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from measuring import Table, command_line, finish
from trainings import TINY, finished_runs, gratings, run, sample_job, some_of, write_dataset, write_labelled

from dinomill.evaluation.alone import Asked, evaluate_alone
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.statistics import Bootstrap
from dinomill.handles import DatasetHandle
from dinomill.storage.hashing import hash_json
from dinomill.training.job import TrainingJob

_QUIET: dict[str, Any] = {"runtime": {"monitor": {"every": 0}, "checkpoint_every": 100, "keep": 1, "log_every": 50}}
_SPLITS = Limits("train", "test", None, None)
_BOOTSTRAP = Bootstrap(100, 0.95, 0)  # intervals over the queries are not shown


class Shares:
    """Trainings by share and seed: made where they are missing.

    Args:
        given: The command line, with ``small``: changes of the recipe.
        dataset: The curated images.
    """

    def __init__(self, given: Namespace, dataset: DatasetHandle) -> None:
        self._given, self._dataset = given, dataset
        self._file = given.work / "results.jsonl"
        self._done: dict[tuple[str, int], dict[str, Any]] = {
            (row["key"], row["seed"]): row for row in finished_runs(self._file)
        }

    def __call__(self, share: float, seed: int) -> dict[str, Any]:
        """What a training reached."""
        images = max(round(share * self._dataset.images), 1)
        # What was trained otherwise is another result.
        recipe = sample_job(self._dataset, None, self._given.work, *self._changes(seed), environment=self._where)
        key = hash_json([recipe.result_identity(), images])[:12]
        if (key, seed) not in self._done:
            print(f"curated_shares: {share:.1%}, {images:,} images, seed {seed}", file=sys.stderr, flush=True)
            row = {"key": key, "data": self._dataset.manifest_sha256, "share": share, "images": images, "seed": seed}
            row |= self._trained(images, seed, self._given.work / key)
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            self._done[key, seed] = row
        return self._done[key, seed]

    @property
    def _where(self) -> str:
        return str(self._given.environment)

    def _changes(self, seed: int) -> tuple[dict[str, Any], ...]:
        steps = {} if self._given.steps is None else {"steps": self._given.steps}
        return (self._given.small, _QUIET, {"seed": seed} | steps)

    def _trained(self, images: int, seed: int, work: Path) -> dict[str, Any]:
        dataset = some_of(self._dataset, images, seed, work / "dataset", kept=True)
        job = sample_job(dataset, None, work, *self._changes(seed), environment=self._where)
        error = None if job.exported.is_dir() else run(job)
        if error is not None:
            raise SystemExit(f"The training on {images:,} images with seed {seed} failed: {error}")
        return {"steps": job.recipe.steps, "knn": self._scored(job)}

    def _scored(self, job: TrainingJob) -> float:
        labelled = SetConfig(labelled=str(self._given.labelled), protocols=("knn",))
        exported = str(job.exported / next(iter(job.models)))
        asked = Asked([exported], labelled, _SPLITS, baselines=False, bootstrap=_BOOTSTRAP)
        (row,) = evaluate_alone(asked, self._given.work / "features").rows
        return row.figures["knn"].value


def measured(given: Namespace, dataset: DatasetHandle) -> dict[str, Any]:
    """Every share, seed by seed: what is there after each seed is a curve."""
    trained = Shares(given, dataset)
    shares = sorted({float(share) for share in given.shares.split(",")})
    if not 0 < shares[0] <= shares[-1] <= 1:
        raise SystemExit(f"--shares {given.shares}: every share has to be above 0 and at most 1")
    found: dict[float, list[dict[str, Any]]] = {share: [] for share in shares}
    for seed in range(given.seeds):
        for share in shares:
            found[share].append(trained(share, seed))
    table = Table("images", "kNN", "lowest", "highest", name=10)
    for share, rows in found.items():
        values = [100 * row["knn"] for row in rows]
        shown = [f"{value:.1f}" for value in (mean(values), min(values), max(values))]
        table.row(f"{share:.1%}", f"{rows[0]['images']:,}", *shown)
    return {f"{share:g}": [row["knn"] for row in rows] for share, rows in found.items()}


def main() -> None:
    parser = command_line(__doc__, "a tiny model for a few steps, on made-up images")
    parser.add_argument("--curated", type=Path, default=Path("data/05_model_input/curated"))
    parser.add_argument("--labelled", type=Path, default=Path("data/01_raw/sample/labelled"))
    parser.add_argument("--environment", default="base", help="whose pretraining: a folder of conf/")
    parser.add_argument("--shares", default="0.125,0.25,0.5,1", help="of the curated images, with commas between")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of every training; the environment's own by default")
    parser.add_argument("--work", type=Path, default=Path("data/work/curated_shares"), help="results and checkpoints")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        given.small = {}
        if given.smoke:
            given.small, given.seeds, given.shares, given.work = TINY, 2, "0.5,1", Path(room) / "work"
            images, labels = gratings(80, 16)
            dataset = write_dataset(Path(room) / "curated", images)
            given.labelled = write_labelled(Path(room) / "labelled", images, labels, splits=("train", "test"))
        else:
            dataset = DatasetHandle.load(given.curated)
        given.work.mkdir(parents=True, exist_ok=True)
        finish(measured(given, dataset), smoke=given.smoke)


if __name__ == "__main__":
    main()
