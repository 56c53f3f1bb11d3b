"""The training loop. Every part that it uses is a module of its own; what happens, in which order, is said here."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import FrameType

from dinomill import tracking
from dinomill.errors import DinomillError, Interrupted
from dinomill.handles import DatasetHandle
from dinomill.images.batches import Batch
from dinomill.training.agreement import Agreement, Vote
from dinomill.training.checkpoint import Checkpoints
from dinomill.training.engine import Engine
from dinomill.training.guard import Guard
from dinomill.training.handover import export, keep_start, preprocessing
from dinomill.training.health import Reading, Verdict
from dinomill.training.history import History, Recorder
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.logbook import Reporter
from dinomill.training.monitor import Monitor, monitor_sets
from dinomill.training.not_finite import (
    DETOURS_NAME,
    Detour,
    Detours,
    NotFiniteError,
    read_detours,
)
from dinomill.training.objectives.fitted import prepare
from dinomill.training.parallel import World
from dinomill.training.progress import Clock, ProgressBar
from dinomill.training.teacher_cache import fill

log = logging.getLogger(__name__)

_LEAVE_SECONDS = 30.0


def train(job: TrainingJob, world: World) -> None:
    """Train from the newest checkpoint, or from the beginning, to the last step, and export; every process calls it.

    Args:
        job: What to train and how. Its work folder holds checkpoints, the curve and, at the end, the weights.
        world: The processes that train together.

    Raises:
        Interrupted: After SIGTERM or SIGINT, when the state is saved.
        DivergedError: When losses or gradients stay not finite, whatever was tried.
        CollapseError: When the features have collapsed.
        ConfigError: When the work folder holds the checkpoints of another job.
    """
    dataset = DatasetHandle.load(job.dataset)
    if world.is_main:
        keep_start(job, dataset)
    runtime, together, clip = job.runtime, Agreement(world), job.recipe.optimizer.clip_gradient
    checkpoints = Checkpoints(
        job.work / "checkpoints",
        world=world,
        identity=job.identity(),
        keep=runtime.keep,
        keep_every=runtime.keep_every,
        mirror=runtime.mirror and f"{runtime.mirror.rstrip('/')}/{job.work.name}",
    )
    taken = together.decided(lambda: [asdict(detour) for detour in read_detours(job.work)])
    detours = Detours([Detour(**row) for row in taken], job.work / DETOURS_NAME if world.is_main else None)
    with stop_signals() as stop, tracking.attach(background=True) as run:
        if not fill(job, dataset, world, lambda: stop.requested):
            raise Interrupted(
                f"The {job.stage} was stopped while the teacher's features were made; those that are made are kept.",
                action="run the same command again: it continues with the others",
            )
        prepare(job, world, lambda: stop.requested)
        while True:
            try:
                return _train(job, world, dataset, checkpoints, detours, run, stop)
            except NotFiniteError as error:
                checkpoints.finish()
                said = detours.go_back(error, runtime.not_finite, checkpoints.newest(), job.stage, clip)
                if world.is_main:
                    log.warning("%s", said)
            except DinomillError:
                checkpoints.finish(_LEAVE_SECONDS)  # what is being written is kept; the others may not wait for it
                raise


def _train(
    job: TrainingJob,
    world: World,
    dataset: DatasetHandle,
    checkpoints: Checkpoints,
    detours: Detours,
    run: tracking.Run,
    stop: Stop,
) -> None:
    """From the newest checkpoint to the end, or to a NotFiniteError."""
    recipe, runtime = job.recipe, job.runtime
    engine = Engine(job, world)
    done, kept = checkpoints.load(engine.module, engine.optimizer, until=recipe.steps)
    checkpoints.forget_after(done)
    detours.begin_at(done)
    engine.rate = detours.rate
    history = History(job.work / "history.jsonl", steps=done, until=recipe.steps, writes=world.is_main)
    recorder = Recorder(kept.get("recorder"))
    if engine.scaler is not None:
        engine.scaler.load(kept.get("scaler"))
    monitor = build_monitor(job, dataset, engine, world, history)
    guard = Guard(job, world, engine, recorder)
    clock = Clock()
    bar = ProgressBar(job.stage, steps=recipe.steps, done=done, enabled=world.is_main)
    reporter = Reporter(
        recipe.batch_size, done, world, history, run, bar, clock, again=detours.begins, whose=whose(job)
    )
    vote = Vote(world)

    lost = {int(row): reason for row, reason in kept.get("unreadable", {}).items()}
    with bar, build_loader(job, dataset, world, start_step=done, order=detours.order, lost=lost) as loader:
        guard.tally = loader.tally
        if done:
            bar.say(f"{job.stage} continues after step {done:,} of {recipe.steps:,}")
        if not done and monitor.due(0, last=False):
            reporter.reading(*look(monitor, 0))
        for batches in clock.waiting(grouped(loader, recipe.accumulate)):
            recorder.add(engine.step(done, batches), [batch.indices for batch in batches])
            done += 1
            last, stopping = done == recipe.steps, vote.ask(stop.requested)
            bar.advance(done)
            if last or done % runtime.log_every == 0:
                guard.read(done)
                reporter.steps(recorder, engine.values(done - 1), done, unreadable=guard.unreadable)

            paused, best = time.monotonic(), None
            if monitor.due(done, last):
                guard.read(done)
                reading, verdict, picture = look(monitor, done, last=last)
                reporter.reading(reading, verdict, picture)
                found = not verdict.state.bad and checkpoints.is_best(*reading.measure)
                best = reading.measure if found else None
            if last or stopping or best or done % runtime.checkpoint_every == 0:
                guard.read(done)
                if last or not recorder.streak:  # what may be on its way to a divergence is not kept
                    kept = {"recorder": recorder.state(), "unreadable": loader.tally.state(), **engine.state()}
                    ends = last or stopping
                    checkpoints.save(done, engine.module, engine.optimizer, kept, best=best, last=ends)
            if stopping and not last:
                raise interrupted(job, done, saved=not recorder.streak)
            clock.apart(time.monotonic() - paused)

    vote.close()
    best_step = checkpoints.best()
    if runtime.export == "best" and best_step is not None and best_step.step != done:
        done = best_step.step
        checkpoints.load_step(done, engine.module)
    export(job, dataset, engine, history, step=done, unreadable=guard.unreadable)


def interrupted(job: TrainingJob, done: int, *, saved: bool) -> Interrupted:
    """The end of a run that was told to stop."""
    state = "its state is saved" if saved else "its last updates were left out, and its state before them is saved"
    return Interrupted(
        f"The {job.stage} was stopped after step {done:,} of {job.recipe.steps:,}; {state}.",
        action="run the same command again: it continues with the next step"
        if saved
        else "run the same command again: it continues from its last checkpoint",
    )


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


def whose(job: TrainingJob) -> str:
    """Which of several students the monitor looks at: the first; nothing where there is one."""
    return f"{next(iter(job.models))}, " if len(job.models) > 1 else ""


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
