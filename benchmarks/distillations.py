"""A strong network as a teacher, by each objective, against the same student trained alone for the same CPU time.

    make distil                    on the sample, which is laid out and curated first: a quarter of an hour on two cores
    python benchmarks/distillations.py --minutes 3 --seeds 0 [--curated data/05_model_input/curated]
        [--labelled data/01_raw/sample/labelled] [--teacher efficientnet-lite0] [--teacher-size 64]
        [--objectives clusters,regression] [--split test|train] [--environment base]

The teacher's features are made once and kept (`distillation.cache`); what that takes is part of each distillation's
time. Then each objective, and the student alone by self-distillation with the sample's recipe, trains for what is left
of its minutes: a few steps measure what one costs, and schedules have the length of the run.

Scored are nearest neighbours (k 10, T 0.07) of the split `test` among those of `train`, with intervals over the
queries and paired differences. `--split train` reads no test image: each labelled image among the others, for choosing
settings.

Killed and started again it continues: finished runs stand in <work>/results.jsonl, others have their checkpoints.
The last lines say which way was better, and are JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from measuring import Table, command_line, finish
from neighbours import Neighbours
from trainings import HERE, ROOT, finished_runs, gratings, merged, run, sample_job, write_dataset, write_labelled

from dinomill import features
from dinomill.arrays import Mask
from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import count_parameters, distillation_job
from dinomill.evaluation.statistics import Bootstrap, Mean, difference, interval
from dinomill.handles import DatasetHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.scores import Measure
from dinomill.storage.hashing import hash_json
from dinomill.training.engine import Engine
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.teacher_cache import fill, folder_of
from dinomill.training.trainer import grouped

ALONE = "alone"
WITHOUT_HEADS = ("clusters", "regression")
STUDENT: dict[str, Any] = {
    "patch_size": 4,
    "embed_dim": 192,
    "depth": 4,
    "num_heads": 3,
    "layerscale": 1.0,
    "interpolate_offset": 0,
    "pooling": "cls+mean_patch",
    "patch_init": "whitened",
    "linear_init": "lecun_normal",
}
QUIET: dict[str, Any] = {"device": "cpu", "log_every": 50, "checkpoint_every": 100, "keep": 1}
QUIET |= {"monitor": {"every": 0}}
# What a distillation differs in from the sample's own, by objective.
RECIPES: dict[str, dict[str, Any]] = {
    "clusters": {"clusters": {"prototypes": 1024, "dim": 256}, "step": {"losses": {"koleo_weight": 0.0}}},
    "regression": {"step": {"losses": {"koleo_weight": 0.0}}},
}
WIDE = ("kNN, percent", "over alone", "against its teacher")
_WARM, _TIMED = 3, 6  # steps that are not counted, and that are
_KNN = Measure(name="knn", title="kNN")
_BOOTSTRAP = Bootstrap(2000, 0.95, 0)


def main() -> None:
    parser = command_line(__doc__, "made-up images, a few seconds of training")
    parser.add_argument("--curated", type=Path, default=Path("data/05_model_input/curated"))
    parser.add_argument("--labelled", type=Path, default=Path("data/01_raw/sample/labelled"))
    parser.add_argument("--work", type=Path, default=Path("data/work/distillations"))
    parser.add_argument("--teacher", default="efficientnet-lite0")
    parser.add_argument("--teacher-size", type=int, default=64, help="pixels at which it sees crops and images")
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="CPU-minutes of each training, the teacher's share in"
    )
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--views", type=int, default=2, help="pairs of crops an image that the teacher sees")
    parser.add_argument("--objectives", default=",".join(WITHOUT_HEADS), help="comma-separated")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="whose images are queries")
    parser.add_argument("--environment", default="base", help="of conf: its crops, schedules and student")
    parser.add_argument("--change", default="{}", help="JSON over the distillations' configuration")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.smoke:
            in_small(options, Path(scratch))
        finish(Comparison(options).all(), smoke=options.smoke)


def in_small(options: Namespace, folder: Path) -> None:
    """Made-up images, and seconds instead of minutes."""
    pixels, labels = gratings(120, 32)
    options.curated = write_dataset(folder / "curated", pixels).folder
    options.labelled = write_labelled(folder / "labelled", pixels[:60], labels[:60])
    options.work, options.split, options.views = folder / "work", "train", 1
    options.teacher_size, options.minutes = 32, 0.02


class Comparison:
    """All runs, their scores, and what follows from them.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.dataset = DatasetHandle.load(options.curated)
        self.neighbours = Neighbours(options.labelled, options.split, self.dataset.channels)
        self.student = STUDENT if options.environment == "base" else self._proposed()
        self.results = options.work / "results.jsonl"

    def all(self) -> dict[str, Any]:
        """Train what is missing, score everything, say what came out; returns the figures."""
        options = self.options
        teacher_right, teacher_cpu = self._teacher()
        rights: dict[str, list[Mask]] = {}
        rows: dict[str, list[dict[str, Any]]] = {}
        for seed in map(int, options.seeds.split(",")):
            for name in (*options.objectives.split(","), ALONE):
                row = self._finished(name, seed)
                rights.setdefault(name, []).append(np.array(row["right"], dtype=bool))
                rows.setdefault(name, []).append(row)
        table = Table("parameters", "steps", "CPU-s", *(f"{head:>29}" for head in WIDE), name=22)
        figures: dict[str, Any] = {"teacher": self._row(table, options.teacher, teacher_right, {}, None, None)}
        for name, seeds in rights.items():
            right, alone = np.concatenate(seeds), np.concatenate(rights[ALONE])
            teacher = np.tile(teacher_right, len(seeds))
            against = None if name == ALONE else alone
            figures[name] = self._row(table, f"student, {name}", right, rows[name][0], against, teacher)
        print()
        figures["verdict"] = verdict(figures)
        print(figures["verdict"])
        return figures | {"minutes": options.minutes, "split": options.split, "teacher_cpu_s": round(teacher_cpu, 1)}

    def _row(
        self, table: Table, name: str, right: Mask, row: dict[str, Any], alone: Mask | None, teacher: Mask | None
    ) -> dict[str, Any]:
        found = interval(Mean.of(right), _BOOTSTRAP)
        figures: dict[str, Any] = {"knn": [round(v, 4) for v in (found.value, found.low, found.high)]}
        cells = []
        for key, other in (("over_alone", alone), ("over_teacher", teacher)):
            gain = None if other is None else difference(Mean.of(right), Mean.of(other), _BOOTSTRAP)
            cells.append("" if gain is None else str(gain))
            if gain is not None:
                figures[key] = [round(v, 4) for v in (gain.value, gain.low, gain.high)]
        size, steps, cpu = (row.get(key, "") for key in ("parameters", "steps", "cpu_s"))
        table.row(name, f"{size:,}" if size else "", str(steps), str(cpu), found.show(_KNN), *cells)
        return figures | {"steps": steps, "cpu_s": cpu}

    def _teacher(self) -> tuple[Mask, float]:
        """Which queries the teacher itself answers rightly, and the CPU-seconds of its kept features."""
        job = self._distillation("regression", seed=0, steps=10)
        # Of the teacher, its size and how its crops are cut, and of the data: each has features of its own.
        key = hash_json([str(folder_of(job)), self.options.views, self.dataset.manifest_sha256])[:12]
        path = self.options.work / "teacher.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if key not in known:
            started = time.process_time()
            fill(job, self.dataset, HERE, lambda: False)
            known[key] = {"cpu_s": time.process_time() - started}
        if self.options.split not in known[key]:
            network = features.open(self.options.teacher, image_size=self.options.teacher_size)
            shown = network.preprocessing
            whole = PreprocessingConfig.square(self.options.teacher_size, shown.mean, shown.std)
            known[key][self.options.split] = self.neighbours.right(network, whole).tolist()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known))
        return np.array(known[key][self.options.split], dtype=bool), known[key]["cpu_s"]

    def _finished(self, name: str, seed: int) -> dict[str, Any]:
        """The result of a run, made now if it is missing."""
        options = self.options
        asked = [name, seed, options.minutes, options.environment, str(options.labelled), self.dataset.manifest_sha256]
        if name != ALONE:
            asked += [options.teacher, options.teacher_size, options.views, options.change, RECIPES[name]]
        key = hash_json([*asked, self.student])[:12]
        before = [row for row in finished_runs(self.results) if row["key"] == key]
        for row in before:
            if row["split"] == options.split:
                return dict(row)
        make: Callable[[int], TrainingJob] = lambda steps: (  # noqa: E731
            self._alone(seed, steps) if name == ALONE else self._distillation(name, seed, steps)
        )
        spent = 0.0 if name == ALONE else self._teacher()[1]
        job = make(self._steps(key, make, 60 * options.minutes - spent))
        started = time.process_time()
        if not job.exported.is_dir():
            assert (error := run(job)) is None, error
        (student,) = job.models
        network = features.open(job.exported / student)
        cpu = before[0]["cpu_s"] if before else round(time.process_time() - started + spent, 1)
        row = {
            "key": key,
            "split": options.split,
            "name": name,
            "seed": seed,
            "steps": job.recipe.steps,
            "cpu_s": cpu,
            "parameters": count_parameters(job.models[student]),
            "right": self.neighbours.right(network, network.preprocessing).tolist(),
        }
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def _steps(self, key: str, make: Callable[[int], TrainingJob], seconds: float) -> int:
        """How many steps fit; kept, so that a run that is started again has as many, and finds its checkpoints."""
        path = self.options.work / "steps.json"
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        if key not in known:
            job = make(100)
            engine, started = Engine(job, HERE), 0.0
            with build_loader(job, self.dataset, HERE, start_step=0) as loader:
                for done, batches in enumerate(grouped(loader, 1)):
                    if done == _WARM:
                        started = time.process_time()
                    if done == _WARM + _TIMED:
                        break
                    engine.step(done, batches)
            pace = (time.process_time() - started) / _TIMED
            known[key] = max(round(seconds / pace), 10)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known))
        return known[key]

    def _distillation(self, objective: str, seed: int, steps: int) -> TrainingJob:
        options = self.options
        values = settings("base", "distillation")
        if options.environment != "base":
            values = merged(values, settings(options.environment, "distillation"))
        own = {
            "teacher": options.teacher,
            "teacher_size": options.teacher_size,
            "objective": objective,
            "seed": seed,
            "steps": steps,
            "champion": None,
            "runtime": QUIET,
            "work": options.work / "runs",
            "output": options.work / "not-written",
            "cache": {"folder": options.work / "kept", "views": options.views, "max_gb": 20},
        }
        values = merged(merged(merged(values, own), RECIPES[objective]), json.loads(options.change))
        values["students"] = {"student": self.student}
        return distillation_job(self.dataset, None, None, DistillationConfig.parse(values, where="the benchmark"))

    def _alone(self, seed: int, steps: int) -> TrainingJob:
        """The same student by itself, with the recipe that the sample's pretraining has."""
        model = {**self.student, "in_channels": self.dataset.channels}
        changes = {"seed": seed, "steps": steps, "model": model, "runtime": QUIET}
        environment = self.options.environment
        return sample_job(self.dataset, None, self.options.work / "runs", changes, environment=environment)

    def _proposed(self) -> dict[str, Any]:
        """The first student of an environment; its channels are the teacher's, or the dataset's where it is alone."""
        student, *_ = settings(self.options.environment, "distillation")["students"].values()
        return {key: value for key, value in student.items() if key != "in_channels"}


def settings(environment: str, stage: str) -> dict[str, Any]:
    """A stage's section in an environment's own parameters."""
    text = (ROOT / "conf" / environment / stage / "parameters.yml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)[stage]
    return values


def verdict(figures: dict[str, Any]) -> str:
    """Which way was better, in a sentence each."""
    ways = [name for name in RECIPES if name in figures]
    best = max(ways, key=lambda name: figures[name]["knn"][0])
    gain, behind = figures[best]["over_alone"], figures[best]["over_teacher"]
    sure = "beyond the interval" if gain[1] > 0 or gain[2] < 0 else "which the interval does not tell from none"
    word = "better" if gain[0] > 0 else "worse"
    said = [
        f"{best} was the best way: {100 * figures[best]['knn'][0]:.1f}%, {100 * abs(gain[0]):.1f} points {word} than "
        f"the student alone ({sure}), {100 * behind[0]:+.1f} points against its teacher."
    ]
    if len(ways) > 1:
        rest = ", ".join(f"{name} {100 * figures[name]['knn'][0]:.1f}%" for name in ways if name != best)
        said.append(f"The others: {rest}.")
    return " ".join(said)


if __name__ == "__main__":
    main()
