"""Trying what is planned: some images of the pool through the real scan, embedder, training steps and networks.

Everything that is timed runs in a process of its own, started as the stages start theirs, so that its memory is its
own and the time to start it is seen too.

<work>/probe/    images, a dataset of them, checkpoints; removed at the end
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinomill.errors import ConfigError, DinomillError, MachineError
from dinomill.execution.progress import progress
from dinomill.layers.files import read_mapping
from dinomill.planning.choices import Choices, Measured
from dinomill.planning.environment import nested
from dinomill.planning.recipe import Plan

STEPS = 4  # of training that count, after every image of the trial was decoded once and things are set up
IMAGES = 96  # that are looked at, embedded and trained on
_PROCESSES = 6  # that a trial starts, one after the other: two jobs are prepared beside the four parts
_BUSY = 0.7  # share of a processor that a process gets, below which the machine counts as busy
_PARALLEL = 0.85  # of the processors that training keeps at work, seen on two
_WORKER = "dinomill.planning.probe_worker"
_LEAST = 256 * 2**20  # bytes of a process that looks and embeds, of the smallest images


class Run(NamedTuple):
    """A process that has ended."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


def probe(plan: Plan, root: Path) -> Measured:
    """Measure what a plan needs to know of this machine and these images.

    Args:
        plan: Made from guessed rates; its shapes are what is tried.
        root: The project's folder.

    Raises:
        DinomillError: What went wrong: the run itself would have failed in the same way.
    """
    room = root / "data" / "work" / plan.wish.name / "probe"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    try:
        with progress("trying what is planned", 4, "parts") as bar:
            stages = configurations(plan, room, root)
            seen = _ask(
                "curation",
                {
                    "locations": list(plan.wish.pool),
                    "tiles": {place: tiles.model_dump() for place, tiles in plan.wish.cut.items()},
                    "images": IMAGES,
                    "stages": stages,
                    "room": str(room),
                },
                room,
            )
            bar.advance(1)
            trained = {name: _train(name, stages, room, seen, plan.machine.cores) for name in _trained(plan)}
            second = trained["distillation"]
            first = trained.get("pretraining", second)  # of a stage that is not run nothing is asked
            bar.advance(1)
            bar.advance(1)
            asked = {"stages": stages, "room": str(room), "given": plan.wish.teacher is not None}
            rates = _ask("networks", {**asked, "cores": plan.machine.cores}, room)
            bar.advance(1)
        return Measured(
            # Without the largest picture tried: not every process has one at the same time, and the pool's is counted.
            curation_memory=int(max(seen["memory"] - seen["largest_bytes"], _LEAST)),
            # Few images were tried, and large ones take long: the larger sample's mean counts, times what was found.
            scan_seconds=plan.pool.seconds_an_image * seen["scan_seconds"] / seen["look_seconds"],
            embed_seconds=max(seen["embed_seconds"] - seen["look_seconds"], 1e-5) + plan.pool.seconds_an_image,
            import_seconds=seen["import_seconds"],
            busy=seen["own_share"] < _BUSY,
            pretraining_step=first["step"],
            distillation_step=second["step"],
            pretraining_fixed=first["fixed"],
            distillation_fixed=second["fixed"],
            pretraining_memory=first["memory"],
            distillation_memory=second["memory"],
            pretraining_disk=first["disk"],
            distillation_disk=second["disk"],
            export_bytes=first["export"],
            teacher_rate=rates["teacher"],
            student_rate=rates["student"],
        )
    finally:
        shutil.rmtree(room, ignore_errors=True)


def expected_seconds(plan: Plan) -> float:
    """What the trial will take, by the rates that are guessed before it."""
    guessed = plan.measured
    steps = warm_steps(plan.shape.batch) + STEPS
    training = steps * (guessed.pretraining_step + guessed.distillation_step)
    starts = _PROCESSES * guessed.import_seconds + guessed.pretraining_fixed + guessed.distillation_fixed
    return training + starts + IMAGES * (guessed.scan_seconds + guessed.embed_seconds)


def configurations(plan: Plan, room: Path, root: Path) -> dict[str, Any]:
    """The plan's stages laid over conf/base as Kedro does it, with their folders in ``room`` and few steps."""
    merged: dict[str, Any] = {}
    trained = _trained(plan)
    for stage in ("curation", *trained):
        path = root / "conf" / "base" / stage / "parameters.yml"
        base = read_mapping(path).get(stage)
        if not isinstance(base, Mapping):
            raise ConfigError(f"{path} says nothing of {stage}.", expected=f"`{stage}:` with its keys below")
        own = {key.removeprefix(f"{stage}."): c for key, c in plan.choices.items() if key.startswith(f"{stage}.")}
        merged[stage] = overlaid(base, values(own))
    names = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
    merged["curation"]["folders"] = {name: str(room / name) for name in names}
    merged["curation"]["execution"] = {"executor": "inline"}
    for stage in trained:
        settings: dict[str, Any] = merged[stage]
        # While the last batches are computed none is made any more: those steps are quicker than a run's.
        steps = warm_steps(plan.shape.batch) + STEPS + ahead(plan.machine.cores)
        settings["runtime"].setdefault("loader", {})["prefetch"] = 1
        settings |= {"work": str(room / "work" / stage), "output": str(room / stage), "steps": steps}
        settings["runtime"] |= {"log_every": 1, "checkpoint_every": steps, "monitor": {"every": 0}}
        if plan.pool.decoded_bytes(plan.shape.channels) > 1e6 * settings["runtime"]["loader"]["cache_mb"]:
            settings["runtime"]["loader"]["cache_mb"] = 0  # the run will decode at every step: so does its trial
        settings["launcher"] = {"kind": "inline"}
    return merged


def _trained(plan: Plan) -> tuple[str, ...]:
    """The stages that train; of a teacher that is given nothing is pretrained."""
    return ("distillation",) if plan.wish.teacher else ("pretraining", "distillation")


def ahead(cores: int) -> int:
    """Batches that the loader has made when the last one is begun: one a worker."""
    return min(cores, 8)


def warm_steps(batch: int) -> int:
    """Steps that do not count: until every image of the trial was seen, and one more."""
    return -(-IMAGES // batch) + 1


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping laid over another, key by key and all the way down."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = overlaid(below, value) if both else value  # type: ignore[arg-type]
    return merged


def values(choices: Choices) -> dict[str, Any]:
    """Choices by dotted key as a tree of plain values."""
    return _plain(nested(choices))


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, dict) else value.value for key, value in tree.items()}


def _ask(what: str, request: Mapping[str, Any], room: Path) -> dict[str, Any]:
    """Have a part measured in a process of its own."""
    asked, answered = room / f"{what}.json", room / f"{what}_answer.json"
    asked.write_text(json.dumps({"what": what, "answer": str(answered), **request}), encoding="utf-8")
    run = _run(_WORKER, asked, room, what)
    answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    if "problem" in answer:
        raise DinomillError(answer.pop("problem"), **answer)
    return {"memory": run.peak_bytes, **answer}


def _train(stage: str, stages: Mapping[str, Any], room: Path, seen: Mapping[str, float], cores: int) -> dict[str, Any]:
    """Some steps by the real worker: seconds of one, and of all the rest; memory; bytes left."""
    job = Path(_ask(f"{stage}_job", {"stages": stages, "room": str(room)}, room)["job"])
    run = _run("dinomill.training.worker", job, room, stage)
    rows = [json.loads(line) for line in (job.parent / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    batch = int(stages[stage]["batch_size"])
    each = [batch / row["images_per_second"] for row in rows if row.get("images_per_second")]
    work = job.parent
    checkpoints, exports, start = (_size(work / name) for name in ("checkpoints", "exported-last", "start"))
    # The quicker half of the last steps: other work on the machine only ever adds.
    step, fixed = lower_half(each[: -ahead(cores)][-STEPS:]), max(run.seconds - sum(each), 0.0) * seen["own_share"]
    if seen["own_share"] < _BUSY:
        # Others took so much that the clock says little: what the steps cost the processors says more.
        step = min(step, max(run.processor_seconds - fixed, 0.0) / len(each) / cores / _PARALLEL)
    return {
        "step": step,
        "fixed": fixed,
        "memory": run.peak_bytes,
        # The two newest checkpoints and the best one stay; results are there as work, as a result, and in DVC's cache.
        "disk": 3 * (checkpoints + exports + start),
        "export": _size(work / "exported-last", "model.safetensors"),
    }


def _size(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files in a folder, all the way down."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def lower_half(seconds: Sequence[float]) -> float:
    """The mean of the shorter half."""
    kept = sorted(seconds)[: max((len(seconds) + 1) // 2, 1)]
    return sum(kept) / len(kept)


def _run(module: str, argument: Path, room: Path, what: str) -> Run:
    """Run ``python -m module argument`` and see how long it took and how much memory it had at most."""
    variables = {**os.environ}
    variables.setdefault("OMP_NUM_THREADS", str(_allowed()))
    variables.pop("MLFLOW_RUN_ID", None)
    log = room / f"{what}.log"
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(argument)], env=variables, stdout=output, stderr=output
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise _failed(what, process.returncode, log)
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failed(what: str, code: int, log: Path) -> DinomillError:
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code == -9:
        return MachineError(
            f"The trial of the {what} was killed by the system, most likely because memory ran out.",
            action="ask for a smaller model: --size tiny",
        )
    return DinomillError(
        f"The trial of the {what} failed (exit code {code}), as the run itself would.",
        found=" / ".join(line.strip() for line in said[-4:]) or "nothing was said",
        action="mend what is named there; `--no-probe` plans without a trial",
    )
