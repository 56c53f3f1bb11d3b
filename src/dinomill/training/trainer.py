"""The training loop. Every part that it uses is a module of its own; what happens, in which order, is said here."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType

from dinomill import tracking
from dinomill.execution.launch import Interrupted
from dinomill.handles import DatasetHandle
from dinomill.images.batches import Anchor, Batch
from dinomill.images.loader import TrainingLoader
from dinomill.training.checkpoint import Checkpoints
from dinomill.training.engine import Engine
from dinomill.training.handover import export, keep_start, preprocessing
from dinomill.training.health import Reading, Verdict
from dinomill.training.history import History, Recorder
from dinomill.training.job import TrainingJob
from dinomill.training.logbook import Reporter
from dinomill.training.monitor import Monitor, monitor_sets
from dinomill.training.parallel import World
from dinomill.training.progress import Clock, ProgressBar


def train(job: TrainingJob, world: World) -> None:
    """Train from the newest checkpoint, or from the beginning, to the last step, and export; every process calls it.

    Args:
        job: What to train and how. Its work folder holds checkpoints, the curve and, at the end, the weights.
        world: The processes that train together.

    Raises:
        Interrupted: After SIGTERM or SIGINT, when the state is saved.
        DivergedError: When a loss is not finite.
        CollapseError: When the features have collapsed.
        ConfigError: When the work folder holds the checkpoints of another job.
    """
    recipe, runtime = job.recipe, job.runtime
    dataset = DatasetHandle.load(job.dataset)
    engine = Engine(job, world)
    if world.is_main:
        keep_start(job, dataset)
    checkpoints = Checkpoints(job.work / "checkpoints", keep=runtime.keep, identity=job.identity())
    done, kept = checkpoints.load(engine.module, engine.optimizer)
    checkpoints.forget_after(done)
    history = History(job.work / "history.jsonl", steps=done, writes=world.is_main)
    recorder = Recorder(kept.get("recorder"))
    if engine.scaler is not None:
        engine.scaler.load(kept.get("scaler"))
    monitor = build_monitor(job, dataset, engine, world, history)
    clock = Clock()
    bar = ProgressBar(job.stage, steps=recipe.steps, done=done, enabled=world.is_main)
    reporter = Reporter(recipe.batch_size, done, world, history, tracking.attach(), bar, clock)

    with stop_signals() as stop, bar, build_loader(job, dataset, world, start_step=done) as loader:
        if done:
            bar.say(f"{job.stage} continues after step {done:,} of {recipe.steps:,}")
        if not done and monitor.due(0, last=False):
            reporter.reading(*look(monitor, 0))
        for batches in clock.waiting(grouped(loader, recipe.accumulate)):
            recorder.add(engine.step(done, batches))
            done += 1
            last, stopping = done == recipe.steps, world.any(stop.requested)
            bar.advance(done)
            if last or done % runtime.log_every == 0:
                reporter.steps(recorder, engine.schedules.at(done - 1), done)

            paused, best = time.monotonic(), None
            if monitor.due(done, last):
                reading, verdict, picture = look(monitor, done, last=last)
                reporter.reading(reading, verdict, picture)
                best = reading if not verdict.state.bad and checkpoints.is_best(*reading.measure) else None
            if last or stopping or best or done % runtime.checkpoint_every == 0:
                recorder.read(world, done)  # what is not finite is never saved
                kept = {"recorder": recorder.state(), **engine.state()}
                checkpoints.save(done, engine.module, engine.optimizer, kept)
            if best:
                checkpoints.mark_best(done, *best.measure)
            if stopping and not last:
                raise Interrupted(
                    f"The {job.stage} was stopped after step {done:,} of {recipe.steps:,}; its state is saved.",
                    action="run the same command again: it continues with the next step",
                )
            clock.apart(time.monotonic() - paused)

    best_step = checkpoints.best()
    if runtime.export == "best" and best_step is not None and best_step[0] != done:
        done = best_step[0]
        checkpoints.load_step(done, engine.module)
    export(job, dataset, engine, history, step=done)


def build_loader(job: TrainingJob, dataset: DatasetHandle, world: World, *, start_step: int) -> TrainingLoader:
    """This process's share of the micro-batches that are left; their images are those of whole batches."""
    recipe = job.recipe
    return TrainingLoader(
        dataset,
        crops=recipe.crops,
        masking=recipe.masking,
        loader=job.runtime.loader,
        patch_size=job.patch_size,
        batch_size=job.batch_per_process(world.size),
        seed=recipe.seed,
        rank=world.rank,
        world=world.size,
        start_step=start_step * recipe.accumulate,
        steps=(recipe.steps - start_step) * recipe.accumulate,
        device=world.device,
        mean=job.mean,
        std=job.std,
        mix=recipe.mix,
        anchor=anchor_crops(job),
    )


def anchor_crops(job: TrainingJob) -> Anchor | None:
    """What the loader renders for the anchor of Gram anchoring; None without one, or where the crops themselves do."""
    gram = job.step.losses.gram
    if gram is None or gram.enlarge == 1:
        return None
    return Anchor(job.recipe.crops.global_size * gram.enlarge, gram.start * job.recipe.accumulate)


def grouped(batches: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """The micro-batches of each step together."""
    iterator = iter(batches)
    while group := list(islice(iterator, count)):
        yield group


def build_monitor(job: TrainingJob, dataset: DatasetHandle, engine: Engine, world: World, history: History) -> Monitor:
    """The monitor with this process's share of the images that it looks at, and the looks before this one."""
    config = job.runtime.monitor
    sets = None if config.every == 0 else monitor_sets(job, dataset, preprocessing(job, dataset), world)
    return Monitor(
        config,
        engine.look,
        sets,
        steps=job.recipe.steps,
        folder=job.work,
        world=world,
        distils=job.teacher is not None,
        past=history.rows,
    )


def look(monitor: Monitor, step: int, *, last: bool = False) -> tuple[Reading, Verdict, Path | None]:
    """A look of the monitor, the judgement on it, and its picture, where one was drawn."""
    reading = monitor.read(step, last=last)
    return reading, monitor.judge(reading), monitor.picture(step)


@dataclass
class Stop:
    """Whether the process was told to stop."""

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT instead of dying of them: the step that runs is finished and saved first."""
    stop = Stop()

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.requested = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
