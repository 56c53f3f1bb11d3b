"""Kill -9 at random moments: does each run end with the weights of an undisturbed one, bit for bit, in one MLflow run?

Trainings of a small vision transformer, started as the stage starts them (launcher, workers, MLflow), are killed

    in a step, in an asynchronous checkpoint, in a look of the monitor (the worker alone, which the launcher survives);
    one process of two alone, after which torchrun starts both again;
    all of a node: stage, torchrun and workers at once;
    the stage alone, whose workers must notice, save and stop;

and started again by the same command until they finish. Weights and heads are compared with those of an undisturbed run
of as many processes. MLflow is asked how many runs there are, how they ended, whether the curve has each step once.

    python benchmarks/kills.py                 20 kills, some minutes
    python benchmarks/kills.py --kills 60 --seed 1
    python benchmarks/kills.py --kind cached   distillation from a teacher without heads: clusters, regression, cached
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from killed_jobs import EVERY, KINDS, job_of, make_dataset
from measuring import Table, command_line, finish

from dinomill import tracking
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.handles import DatasetHandle
from dinomill.training.job import TrainingJob

# Where and whom, in how many processes; the first is what a smoke test does.
PLAN = [
    ("checkpoint", "worker", 1),
    ("checkpoint", "one process", 2),
    ("look", "node", 1),
    ("step", "worker", 1),
    ("step", "one process", 2),
    ("step", "node", 2),
    ("checkpoint", "node", 1),
    ("look", "one process", 2),
    ("step", "stage", 1),
    ("look", "worker", 1),
]
_WAIT = 600.0  # seconds for anything to happen on a busy machine


class Kill(NamedTuple):
    """What was done, and where it hit."""

    meant: str
    whom: str
    processes: int
    step: int  # last row of the curve at that moment
    hit: str  # what the files say that was going on


def main() -> None:
    parser = command_line(__doc__, "one kill")
    parser.add_argument("--kills", type=int, default=20, help="how many")
    parser.add_argument("--each", type=int, default=6, help="kills in one run")
    parser.add_argument("--processes", type=int, choices=(1, 2), help="only the kills in runs of so many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0], help="of training; cached: with kept features")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        stage(options.child)
        return
    kills = 1 if options.smoke else options.kills
    steps = 40 if options.smoke else 120
    with tempfile.TemporaryDirectory(prefix="dinomill-kills-") as name:
        trial = Trial(Path(name), steps, random.Random(options.seed), options.kind)
        figures = {"kind": options.kind, **trial.all(kills, options.each, options.processes)}
    finish(figures, smoke=options.smoke)


def stage(settings: Path) -> None:
    """The stage's process: what `kedro run` does of it."""
    from dinomill.training.hand_on import run_job

    told = json.loads(settings.read_text(encoding="utf-8"))
    job = TrainingJob.parse(told["job"], where=str(settings))
    launcher = LauncherConfig.parse(told["launcher"], where=str(settings))
    with tracking.open_run("pretraining", tracking_uri=told["store"], experiment=told["experiment"]) as run:
        os.environ.update(run.environment())
        run_job(job, launcher, DatasetHandle.load(job.dataset))


class Trial:
    """Runs, killed and whole.

    Args:
        folder: For everything.
        steps: Of each run.
        moments: Draws the moments.
        kind: Of training.
    """

    def __init__(self, folder: Path, steps: int, moments: random.Random, kind: str) -> None:
        self._kind = kind
        self._folder, self._steps, self._moments = folder, steps, moments
        self._dataset = make_dataset(folder / "curated")
        self._store = f"sqlite:///{folder}/mlflow.db"
        self._whole: dict[int, Path] = {}

    def all(self, kills: int, each: int, only: int | None) -> dict[str, Any]:
        """Kill so often, a few times a run; returns the figures."""
        table = Table("processes", "at step", "then", "it was in a", name=28)
        runs: list[dict[str, Any]] = []
        waiting = [PLAN[number % len(PLAN)] for number in range(kills)]
        for processes in (1, 2) if only is None else (only,):
            mine = [(where, whom) for where, whom, count in waiting if count == processes]
            for start in range(0, len(mine), each):
                runs += [self.run(f"{processes}-{start}", processes, mine[start : start + each], table)]
        print()
        ends = Table("kills", "bits", "runs", "state", "curve", name=28)
        for row in runs:
            bits = "equal" if row["equal"] else "OTHER"
            curve = "whole" if row["curve"] else "BROKEN"
            ends.row(row["name"], str(row["kills"]), bits, str(row["mlflow_runs"]), row["state"], curve)
        return {
            "kills": sum(row["kills"] for row in runs),
            "hits": {place: sum(row["hits"].count(place) for row in runs) for place in ("step", "checkpoint", "look")},
            "runs": len(runs),
            "equal": sum(row["equal"] for row in runs),
            "one_mlflow_run": sum(row["mlflow_runs"] == 1 for row in runs),
            "finished": sum(row["state"] == "FINISHED" for row in runs),
            "curve_whole": sum(row["curve"] for row in runs),
        }

    def run(self, name: str, processes: int, todo: list[tuple[str, str]], table: Table) -> dict[str, Any]:
        """One run with several kills, to its end."""
        whole = self._undisturbed(processes)
        settings, work = self._settings(name, processes)
        kills: list[Kill] = []
        process = self._start(settings)
        for where, whom in todo:
            reached = last_row(work)[0]
            if reached >= self._steps - 12:
                break  # the run is over too soon: what is left of the plan goes to no other
            process, kill = self._kill(process, settings, work, where, whom, processes)
            kills.append(kill)
            then = "restart" if whom == "one process" else "again"
            table.row(f"{kill.meant}, {whom}", str(processes), str(kill.step), then, kill.hit)
        while wait(process) != 0:
            process = self._start(settings)
        exported = next(work.glob("exported-last"))
        found = self._mlflow(name)
        equal = same_bits(exported, whole)
        return {"name": name, "kills": len(kills), "hits": [kill.hit for kill in kills], "equal": equal, **found}

    def _kill(
        self, process: subprocess.Popen[bytes], settings: Path, work: Path, where: str, whom: str, processes: int
    ) -> tuple[subprocess.Popen[bytes], Kill]:
        """Wait for a moment, kill, and see to it that the run goes on."""
        begun = last_row(work)[0]
        target = begun + self._moments.randint(2, 12)
        pause = self._moments.random() * 0.02
        while True:
            if process.poll() is not None:
                if process.returncode == 0:
                    return process, Kill(where, whom, processes, last_row(work)[0], "finished before")
                process = self._start(settings)
            if last_row(work)[0] >= target and going_on(work) == where:
                break
            time.sleep(0.0005)
        time.sleep(pause if where == "step" else pause / 10)
        hit, step = going_on(work), last_row(work)[0]
        with suppress(psutil.NoSuchProcess):
            for victim in victims(process.pid, whom, self._moments):
                with suppress(psutil.NoSuchProcess):
                    victim.send_signal(signal.SIGKILL)
        if whom != "one process":
            wait(process)
            process = self._start(settings)
        return process, Kill(where, whom, processes, step, hit)

    def _undisturbed(self, processes: int) -> Path:
        if processes not in self._whole:
            settings, work = self._settings(f"whole-{processes}", processes)
            code = wait(self._start(settings))
            assert code == 0, (settings.with_suffix(".log")).read_text()[-3000:]
            self._whole[processes] = work / "exported-last"
        return self._whole[processes]

    def _settings(self, name: str, processes: int) -> tuple[Path, Path]:
        values = job_of(
            self._dataset, self._steps, self._folder / "work" / name, "ddp" if processes > 1 else "none", self._kind
        )
        launcher = {"kind": "torchrun" if processes > 1 else "inline", "processes": processes, "threads": 1}
        told = {"job": values, "launcher": launcher, "store": self._store, "experiment": name}
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(told))
        return path, TrainingJob.parse(values, where="a benchmark").work

    def _start(self, settings: Path) -> subprocess.Popen[bytes]:
        with settings.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(Path(__file__)), "--child", str(settings)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def _mlflow(self, name: str) -> dict[str, Any]:
        from mlflow import MlflowClient

        client = MlflowClient(self._store)
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        points = [point.step for point in client.get_metric_history(runs[0].info.run_id, "loss")]
        whole = sorted(points) == list(range(1, self._steps + 1))
        return {"mlflow_runs": len(runs), "state": runs[0].info.status, "curve": whole}


def wait(process: subprocess.Popen[bytes]) -> int:
    """Until a process and its workers have ended."""
    return process.wait(_WAIT)


def victims(pid: int, whom: str, moments: random.Random) -> list[psutil.Process]:
    """The processes to kill."""
    stage_process = psutil.Process(pid)
    below = stage_process.children(recursive=True)
    workers = [child for child in below if is_worker(child)]
    if whom == "stage":
        return [stage_process]
    if whom == "node":
        return [stage_process, *below]
    return [moments.choice(workers)] if workers else []


def is_worker(process: psutil.Process) -> bool:
    """Whether a process trains, rather than start others."""
    with suppress(psutil.Error):
        command = process.cmdline()
        return "dinomill.training.worker" in command and "torch.distributed.run" not in command
    return False


def last_row(work: Path) -> tuple[int, bool]:
    """The last step in the curve, and whether its row is one of a look."""
    with suppress(OSError, ValueError, IndexError):
        line = (work / "history.jsonl").read_bytes().rstrip(b"\n").rsplit(b"\n", 1)[-1]
        row = json.loads(line)
        return int(row["step"]), "effective_rank" in row
    return 0, False


def going_on(work: Path) -> str:
    """What a run is at, as far as its files tell."""
    if any((work / "checkpoints").glob(".step_*.tmp")):
        return "checkpoint"
    step, looked = last_row(work)
    return "look" if step and step % EVERY == 0 and not looked else "step"


def same_bits(folder: Path, other: Path) -> bool:
    """Whether two exports hold the same weights and heads."""
    names = ("student/model.safetensors", "student/heads.safetensors")
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


if __name__ == "__main__":
    main()
