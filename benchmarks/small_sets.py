"""What helps where images are few: settings against each other at equal CPU time, several seeds, training labels only.

    python benchmarks/small_sets.py --minutes 1 --seeds 3 [--curated data/05_model_input/curated]
        [--labelled data/01_raw/sample/labelled] [--environment base] [--settings base,ibot_0,sigreg]

Each setting is the environment's recipe with one change. A few steps measure what a step of it costs; the run then has
as many steps as the time allows, with schedules of that length. Scored is the leave-one-out accuracy of nearest
neighbours among the labelled images of the split `train` (`test` is never read): as they are, and of mirrored queries
of another brightness among the images as they are.

Killed and started again it continues: finished runs stand in <work>/results.jsonl, others have their checkpoints.
A table with the standard deviation over seeds; the last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from measuring import Table, command_line, finish
from torch import Tensor
from trainings import HERE, TINY, finished_runs, gratings, run, sample_job, write_dataset, write_labelled

from dinomill.handles import DatasetHandle
from dinomill.images.labelled import read_labelled
from dinomill.images.preprocess import preprocess
from dinomill.models import load
from dinomill.models.pooling import pool
from dinomill.storage.hashing import hash_json
from dinomill.training.engine import Engine
from dinomill.training.handover import preprocessing
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.trainer import grouped
from dinomill.vectors.knn import knn_predict

QUIET: dict[str, Any] = {"runtime": {"monitor": {"every": 0}, "checkpoint_every": 200, "keep": 1, "log_every": 100}}
NO_LOSSES: dict[str, Any] = {"dino_weight": 0.0, "ibot_weight": 0.0, "koleo_weight": 0.0}
_WARM, _TIMED, _ROUNDS = 3, 8, 3  # steps that are not counted; those of a round; rounds, of which the cheapest counts
_GAIN = 0.8  # brightness of the changed queries
_NEIGHBOURS = 10
_BATCH = 256


def settings(crops: Mapping[str, Any], patch: int) -> dict[str, dict[str, Any]]:
    """What is tried, by name: each a change of the recipe, whose crops and patch size are given."""

    def losses(**values: Any) -> dict[str, Any]:
        return {"step": {"losses": values}}

    def halved(size: int) -> int:
        return max(round(size / 2 / patch), 1) * patch

    low = {name: halved(crops[name]) for name in ("global_size", "local_size")}
    return {
        "base": {},
        "random_patches": {"model": {"patch_init": "random"}},
        "ibot_0": losses(ibot_weight=0.0),
        "ibot_half": losses(ibot_weight=0.5),
        "no_koleo": losses(koleo_weight=0.0),
        "sigreg": losses(koleo_weight=0.0, sigreg={"weight": 0.05}),
        "lejepa": losses(**NO_LOSSES, sigreg={"weight": 0.05, "invariance": 1.0}),
        "softmax_centering": {"step": {"centering": {"kind": "softmax"}}},
        "prototypes_256": {"step": {"head": {"prototypes": 256}}},
        "prototypes_4096": {"step": {"head": {"prototypes": 4096}}},
        "teacher_temperature_0.04": {"schedule": {"teacher_temperature": 0.04}},
        "locals_2": {"crops": {"local_crops": 2}},
        "locals_8": {"crops": {"local_crops": 8}},
        "low_resolution_first": {"low_resolution": {"until": 0.75, **low}},
    }


def step_seconds(job: TrainingJob, dataset: DatasetHandle, steps: int = _TIMED) -> float:
    """CPU-seconds of a step, of this process, loading included: the cheapest of some rounds, for others' work adds."""
    job = with_recipe(job, steps=_WARM + _ROUNDS * steps)
    engine, done, marks = Engine(job, HERE), 0, []
    with build_loader(job, dataset, HERE, start_step=0) as loader:
        for batches in grouped(loader, job.recipe.accumulate):
            engine.step(done, batches)
            done += 1
            if done >= _WARM and (done - _WARM) % steps == 0:
                marks.append(time.process_time())
            if len(marks) > _ROUNDS:
                break
    return min(after - before for before, after in pairwise(marks)) / steps


def pace(job: TrainingJob, dataset: DatasetHandle) -> float:
    """CPU-seconds of a step in the mean of the run, whose first steps may be cheaper."""
    low = job.recipe.low_resolution
    if low is None:
        return step_seconds(job, dataset)
    share, always = low.steps(1000) / 1000, low.model_copy(update={"until": job.recipe.steps})
    cheap = step_seconds(with_recipe(job, low_resolution=always), dataset)
    return share * cheap + (1 - share) * step_seconds(with_recipe(job, low_resolution=None), dataset)


def with_recipe(job: TrainingJob, **values: Any) -> TrainingJob:
    """The same job with other values of its recipe."""
    return job.model_copy(update={"recipe": job.recipe.model_copy(update=values)})


def accuracies(job: TrainingJob, dataset: DatasetHandle) -> dict[str, float]:
    """Leave-one-out accuracy of what a finished job exported: of images as they are, and of changed queries."""
    assert job.labelled is not None
    shown = preprocessing(job, dataset)
    images = read_labelled(job.labelled, "train", channels=shown.channels, min_side=shown.resize)
    labels = torch.from_numpy(images.labels)
    plain = torch.stack([torch.from_numpy(preprocess(one, shown)) for one in images.images])
    # Brightness is a factor on the pixels themselves, which are normalised here.
    offset = torch.tensor(shown.mean)[:, None, None] / torch.tensor(shown.std)[:, None, None]
    changed = ((plain + offset) * _GAIN - offset).flip(3)
    bank = embedded(job, plain)
    result = {}
    for name, queries in (("knn", bank), ("changed", embedded(job, changed))):
        (found,) = knn_predict(queries, bank, labels, ks=(_NEIGHBOURS,), exclude_self=True).values()
        result[name] = float((found == labels).double().mean())
    return result


@torch.inference_mode()
def embedded(job: TrainingJob, images: Tensor) -> Tensor:
    """Embeddings ``[N, D]`` of images by the exported network."""
    model = load(job.exported / "student").eval()
    parts = [pool(model.forward_features(part), model.config.pooling) for part in torch.split(images, _BATCH)]
    return torch.cat(parts)


def measured(
    name: str, change: Mapping[str, Any], seed: int, where: Mapping[str, Any], given: Namespace
) -> dict[str, Any]:
    """One run: as many steps as its time allows, and what it scores; errors are part of the answer."""
    common = [given.small, QUIET, change, {"seed": seed}]
    probe = sample_job(where["dataset"], where["labelled"], given.work, *common, environment=given.environment)
    paces = given.work / "paces.json"
    known: dict[str, float] = json.loads(paces.read_text()) if paces.exists() else {}
    if name not in known:
        # Kept, so that a run that is started again has as many steps as before, and finds its checkpoints.
        known[name] = pace(probe, where["dataset"])
        paces.write_text(json.dumps(known))
    steps = max(round(60 * given.minutes / known[name]), 10)
    job = sample_job(
        where["dataset"], where["labelled"], given.work, *common, {"steps": steps}, environment=given.environment
    )
    started = time.process_time()
    error = None if job.exported.is_dir() else run(job)
    row: dict[str, Any] = {"setting": name, "seed": seed, "steps": steps}
    row["cpu_s"] = round(time.process_time() - started, 1)
    return row | ({"error": error} if error else accuracies(job, where["dataset"]))


def shown(rows: list[dict[str, Any]], table: Table, name: str) -> None:
    """A setting's line: means, and standard deviations over seeds."""
    good = [row for row in rows if row["setting"] == name and "error" not in row]
    if not good:
        table.row(name, "–", "–", "failed", "")
        return
    cells = []
    for measure in ("knn", "changed"):
        values = [100 * row[measure] for row in good]
        noise = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f}{noise}")
    seconds = statistics.mean(row["cpu_s"] for row in good)
    table.row(name, f"{good[0]['steps']:,}", f"{seconds:.0f}", *cells)


def main() -> None:
    parser = command_line(__doc__, "two settings of a tiny model for seconds, on made-up images")
    parser.add_argument("--curated", type=Path, default=Path("data/05_model_input/curated"))
    parser.add_argument("--labelled", type=Path, default=Path("data/01_raw/sample/labelled"))
    parser.add_argument("--environment", default="base", help="folder of conf/ whose recipe is changed")
    parser.add_argument("--settings", help="names, with commas between; all of them by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1.0, help="CPU time of a run")
    parser.add_argument("--work", type=Path, default=Path("data/work/small_sets"), help="results and checkpoints")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        given.small = {}
        if given.smoke:
            given.small, given.seeds, given.minutes, given.work = TINY, 2, 0.005, Path(room) / "work"
            given.settings = given.settings or "base,sigreg,low_resolution_first"
            images, labels = gratings(80, 16)
            where: dict[str, Any] = {"dataset": write_dataset(Path(room) / "curated", images)}
            where["labelled"] = write_labelled(Path(room) / "labelled", images, labels)
        else:
            where = {"dataset": DatasetHandle.load(given.curated), "labelled": given.labelled}
        finish({"results": compared(where, given)}, smoke=given.smoke)


def compared(where: Mapping[str, Any], given: Namespace) -> list[dict[str, Any]]:
    """All settings and seeds, those that are done already from the file; one seed of all before the next."""
    recipe = sample_job(where["dataset"], None, given.work, given.small, environment=given.environment)
    known = settings(recipe.recipe.crops.model_dump(), recipe.patch_size)
    names = given.settings.split(",") if given.settings else list(known)
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"no such setting: {', '.join(unknown)}; there are {', '.join(known)}")
    what = [where["dataset"].manifest_sha256, given.environment, given.minutes, recipe.identity()["recipe"]["crops"]]
    given.work = given.work / hash_json({"what": what})[:12]
    given.work.mkdir(parents=True, exist_ok=True)
    file = given.work / "results.jsonl"
    rows = finished_runs(file)
    for seed in range(given.seeds):
        for name in names:
            if any(row["setting"] == name and row["seed"] == seed for row in rows):
                continue
            rows.append(measured(name, known[name], seed, where, given))
            with file.open("a") as out:
                out.write(json.dumps(rows[-1]) + "\n")
    table = Table("steps", "CPU-s", "      kNN, %", "  changed, %")
    for name in names:
        shown(rows, table, name)
    return [row for row in rows if row["setting"] in names and row["seed"] < given.seeds]


if __name__ == "__main__":
    main()
