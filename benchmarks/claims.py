"""The paper's claims, measured again in miniature: `make claims`, or `python benchmarks/claims.py`, after curation.

    python benchmarks/claims.py [--seeds 3] [--images 2000] [--only a,d] [--curated …] [--labelled …] [--work …]

(a) curated images teach more than as many uncurated ones            accuracy of nearest neighbours
(b) KoLeo raises instance retrieval                                   mean average precision
(c) masked modelling raises dense prediction                          mean IoU of a linear segmentation
(d) a student distilled from a larger teacher beats the same          accuracy of nearest neighbours
    student trained alone for the same steps
(e) Sinkhorn-Knopp or KoLeo keeps a training stable that              bad verdicts of the monitor, without labels
    falls without both
(f) the step is twice as fast on a third of the memory                benchmarks/pretraining_step.py

Runs are the sample's recipes with one change each, with several seeds, whole. What is compared has the same seed; the
interval is Student's, at 95%, over the seeds' differences. A claim *holds* where the interval lies above 0, *fails*
where it lies below, and is *open* otherwise: so many seeds at this scale do not tell. Queries are the split `test`,
which nothing was chosen by.

Killed and started again it continues: finished runs stand in <work>/results.jsonl, others have their checkpoints.
A table for people; the last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from collapses import unmoved_centre
from measuring import command_line, finish
from scipy import stats
from scoring import labels_of, scores_of
from trainings import (
    ROOT,
    TINY,
    finished_runs,
    gratings,
    looks,
    merged,
    run,
    sample_job,
    some_of,
    write_dataset,
    write_labelled,
)

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import distillation_job
from dinomill.handles import DatasetHandle
from dinomill.storage.hashing import hash_json
from dinomill.training.hand_on import adopt
from dinomill.training.health import State
from dinomill.training.job import TrainingJob

QUIET: dict[str, Any] = {"runtime": {"monitor": {"every": 0}, "checkpoint_every": 200, "keep": 1, "log_every": 100}}
CONFIDENCE = 0.95
MOSAICS = 400  # pictures that a segmentation is learnt from
NEITHER, SINKHORN, KOLEO = "neither", "Sinkhorn-Knopp alone", "KoLeo alone"


@dataclass(frozen=True)
class Compared:
    """A claim of the kind: by this measure this run is better than that one."""

    letter: str
    sentence: str
    measure: str  # of Scores
    better: str
    worse: str


CLAIMS = (
    Compared("a", "curated images teach more than as many uncurated ones", "knn", "curated", "uncurated"),
    Compared("b", "KoLeo raises instance retrieval", "retrieval", "base", "without KoLeo"),
    Compared("c", "masked modelling raises dense prediction", "segmentation", "base", "without masks"),
    Compared("d", "a distilled student beats the same one trained alone", "knn", "student", "student alone"),
)
STABLE = "Sinkhorn-Knopp or KoLeo keeps a training stable"
FAST = "the step is twice as fast on a third of the memory"


class Runs:
    """Runs by name and seed: made where they are missing.

    Args:
        given: The command line, with ``small``: changes of all recipes.
        dataset: The curated images.
    """

    def __init__(self, given: Namespace, dataset: DatasetHandle) -> None:
        self._given, self._dataset = given, dataset
        self._file = given.work / "results.jsonl"
        self._done: dict[tuple[str, int], dict[str, Any]] = {
            (row["run"], row["seed"]): row for row in finished_runs(self._file)
        }

    def __call__(self, name: str, seed: int) -> dict[str, Any]:
        """What a run gave, with its error if it had one."""
        if (name, seed) not in self._done:
            print(f"claims: {name}, seed {seed}", file=sys.stderr, flush=True)
            row = {"run": name, "seed": seed, **self._make(name, seed)}
            self._done[name, seed] = row
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
        return self._done[name, seed]

    def _make(self, name: str, seed: int) -> dict[str, Any]:
        if name in (NEITHER, SINKHORN, KOLEO):
            return self._stability(name, seed)
        job = self._job(name, seed)
        error = None if job.exported.is_dir() else run(job)
        if error is not None:
            return {"error": error}
        side, given = job.recipe.crops.global_size, self._given
        labels = labels_of(given.labelled, given.work, side=side, pictures=given.mosaics)
        scored = scores_of(job.exported / next(iter(job.models)), labels, given.work / "features")
        return {"steps": job.recipe.steps, **scored._asdict()}

    def _job(self, name: str, seed: int) -> TrainingJob:
        if name in ("curated", "uncurated"):
            dataset = some_of(
                self._dataset, self._given.images, seed, self._given.work / f"{name}-{seed}", kept=name == "curated"
            )
            return self._pretraining(dataset, seed)
        if name == "student":
            return self._distillation(seed)
        changes: dict[str, dict[str, Any]] = {
            "base": {},
            "without KoLeo": {"step": {"losses": {"koleo_weight": 0.0}}},
            "without masks": {"step": {"losses": {"ibot_weight": 0.0}}},
            "student alone": self._alone(),
        }
        return self._pretraining(self._dataset, seed, changes[name])

    def _pretraining(self, dataset: DatasetHandle, seed: int, *changes: Mapping[str, Any]) -> TrainingJob:
        return sample_job(dataset, None, self._given.work, self._given.small, QUIET, *changes, {"seed": seed})

    def _alone(self) -> dict[str, Any]:
        """The student's shape and steps, for a pretraining."""
        values = _distillation_values(self._given)
        (shape,) = values["students"].values()
        return {"steps": values["steps"], "model": shape}

    def _distillation(self, seed: int) -> TrainingJob:
        self("base", seed)
        trained = self._pretraining(self._dataset, seed)
        folder = self._given.work / f"teacher-{seed}"
        teacher = adopt(trained, self._dataset, student="student", name="teacher", output=folder)
        values = merged(_distillation_values(self._given), {**QUIET, "seed": seed})
        values |= {"work": self._given.work, "output": self._given.work / "students"}
        config = DistillationConfig.parse(values, where="the benchmark")
        return distillation_job(self._dataset, teacher, None, config)

    def _stability(self, name: str, seed: int) -> dict[str, Any]:
        changes: dict[str, Any] = {"runtime": {"monitor": {"on_collapse": "warn"}}, "seed": seed}
        if name != SINKHORN:
            changes = merged(changes, {"step": {"centering": {"kind": "softmax"}}})
        if name != KOLEO:
            changes = merged(changes, {"step": {"losses": {"koleo_weight": 0.0}}})
        job = sample_job(self._dataset, None, self._given.work / "stability", changes, self._given.small)
        with nullcontext() if name == SINKHORN else unmoved_centre():
            error = run(job)
        bad = next((row for row in looks(job) if State(row["verdict"]).bad), None)
        return {"steps": job.recipe.steps, "bad_at": bad and bad["step"], **({"error": error} if error else {})}


def _distillation_values(given: Namespace) -> dict[str, Any]:
    text = (ROOT / "conf" / "base" / "distillation" / "parameters.yml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)["distillation"]
    if given.smoke:
        shape = {"embed_dim": 32, "depth": 1}
        values = merged(values, {**{k: v for k, v in TINY.items() if k != "model"}, "students": {"small": shape}})
        del values["step"]["head"]["prototypes"]
    return values


def compared(claim: Compared, runs: Runs, seeds: int) -> dict[str, Any]:
    """A claim's figures, its interval, its verdict."""
    pairs = [(runs(claim.better, seed), runs(claim.worse, seed)) for seed in range(seeds)]
    good = [(one[claim.measure], other[claim.measure]) for one, other in pairs if "error" not in one | other]
    failed = [row["error"] for pair in pairs for row in pair if "error" in row]
    result: dict[str, Any] = {"claim": claim.sentence, "measure": claim.measure, "runs": [claim.better, claim.worse]}
    if len(good) < 2:
        return result | {"verdict": "open", "errors": failed}
    gains = [one - other for one, other in good]
    low, high = interval(gains)
    verdict = "holds" if low > 0 else "fails" if high < 0 else "open"
    means = [statistics.mean(values) for values in zip(*good, strict=True)]
    result |= {"means": means, "gain": statistics.mean(gains), "low": low, "high": high, "seeds": len(good)}
    return result | {"verdict": verdict, **({"errors": failed} if failed else {})}


def interval(gains: list[float]) -> tuple[float, float]:
    """Student's interval of the mean of differences, over seeds."""
    mean, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(gains) - 1, loc=mean, scale=error)
    return float(low), float(high)


def stability(runs: Runs, seeds: int) -> dict[str, Any]:
    """How many seeds went wrong, for each way."""
    fallen = {}
    for name in (NEITHER, SINKHORN, KOLEO):
        rows = [runs(name, seed) for seed in range(seeds)]
        fallen[name] = sum(row["bad_at"] is not None or "error" in row for row in rows)
    held = fallen[NEITHER] == seeds and fallen[SINKHORN] == fallen[KOLEO] == 0
    # Where nothing falls, there is nothing to be kept from it.
    worse = fallen[NEITHER] < max(fallen[SINKHORN], fallen[KOLEO])
    verdict = "holds" if held else "fails" if worse else "open"
    return {"claim": STABLE, "fallen": fallen, "seeds": seeds, "verdict": verdict}


def speed(given: Namespace) -> dict[str, Any]:
    """The step beside the plain one, by the script that measures it."""
    kept = given.work / "step.json"
    if not kept.exists():
        command = [sys.executable, str(ROOT / "benchmarks" / "pretraining_step.py"), *(["--smoke"] * given.smoke)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        kept.write_text(said.strip().splitlines()[-1])
    rows = json.loads(kept.read_text())["details"]
    plain = {name: row["official-style"] for name, row in rows.items() if "official-style" in row}
    best = {name: {"speed": row["speed_ratio"], "memory": row["memory_ratio"]} for name, row in plain.items()}
    held = all(row["speed"] >= 2 and row["memory"] <= 1 / 3 for row in best.values())
    return {"claim": FAST, "rows": best, "verdict": "holds" if best and held else "fails"}


def shown(letter: str, result: Mapping[str, Any]) -> None:
    """A claim's lines."""
    print(f"({letter}) {result['claim']:<58} {result['verdict']}")
    if "gain" in result:
        one, other = (100 * mean for mean in result["means"])
        better, worse = result["runs"]
        gain, low, high = (100 * result[name] for name in ("gain", "low", "high"))
        print(
            f"    {result['measure']}: {better} {one:.1f}, {worse} {other:.1f}: {gain:+.1f} ({low:+.1f} to {high:+.1f})"
        )
    for name, count in result.get("fallen", {}).items():
        print(f"    {name}: {count} of {result['seeds']} went wrong")
    for name, row in result.get("rows", {}).items():
        print(f"    {name}: {row['speed']:.2f} times as fast, {row['memory']:.2f} of the memory")
    for error in result.get("errors", []):
        print(f"    a run failed: {error}")


def main() -> None:
    parser = command_line(__doc__, "a tiny model for a few steps, on made-up images")
    parser.add_argument("--curated", type=Path, default=Path("data/05_model_input/curated"))
    parser.add_argument("--labelled", type=Path, default=Path("data/01_raw/sample/labelled"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000, help="for (a), curated ones and others")
    parser.add_argument("--only", default="a,b,c,d,e,f", help="letters, with commas between")
    parser.add_argument("--work", type=Path, default=Path("data/work/claims"), help="results and checkpoints")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        given.small, given.mosaics = {}, MOSAICS
        if given.smoke:
            given.small, given.seeds, given.images, given.mosaics = TINY, 2, 40, 12
            given.work = Path(room) / "work"
            images, labels = gratings(80, 16)
            dataset = write_dataset(Path(room) / "curated", images)
            given.labelled = write_labelled(Path(room) / "labelled", images, labels, splits=("train", "test"))
        else:
            dataset = DatasetHandle.load(given.curated)
        given.work = given.work / hash_json({"data": dataset.manifest_sha256, "images": given.images})[:12]
        given.work.mkdir(parents=True, exist_ok=True)
        finish(measured(given, Runs(given, dataset)), smoke=given.smoke)


def measured(given: Namespace, runs: Runs) -> dict[str, Any]:
    """All claims that were asked for, shown one by one."""
    wanted, results = given.only.split(","), {}
    for claim in CLAIMS:
        if claim.letter in wanted:
            results[claim.letter] = compared(claim, runs, given.seeds)
            shown(claim.letter, results[claim.letter])
    if "e" in wanted:
        results["e"] = stability(runs, given.seeds)
        shown("e", results["e"])
    if "f" in wanted:
        results["f"] = speed(given)
        shown("f", results["f"])
    return results


if __name__ == "__main__":
    main()
