"""Idempotent shard tasks: run each once, on any executor, and continue after a kill where it was.

<done>/<task hash>.json    the result of a finished task; written last, so its outputs are whole

A task is a frozen configuration: everything that its result depends on, inputs included. Its hash is the marker's name,
so a changed input or setting is another task, and a marker never vouches for something else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, forkserver, get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field

from dinomill.config import Config
from dinomill.errors import MachineError
from dinomill.execution.parent import end_with_parent
from dinomill.execution.progress import progress
from dinomill.storage.atomic import write_text
from dinomill.variables import kept_environment

if TYPE_CHECKING:
    import dinomill.execution.preloaded  # noqa: F401 (the workers' server runs it by its name, and DVC watches imports)


class ExecutionConfig(Config):
    """Where shard tasks run. The results are the same bytes wherever that is."""

    executor: Literal["inline", "processes", "ray", "slurm"] = Field(
        default="processes",
        description="inline (this process), processes (this machine), ray (a cluster), slurm (an array)",
    )
    workers: int = Field(default=0, ge=0, description="processes at once; 0: one a CPU that this process may use")


class Task(Config):
    """A unit of work: all that its result depends on, as plain data."""

    units: int = Field(default=1, ge=1, description="how much work it is, for the progress bar: images, as a rule")


class TaskResult(Config):
    """What a task leaves: small figures, and the files that hold the rest."""

    outputs: tuple[Path, ...] = Field(default=(), description="files written; the marker counts only while they exist")


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

TaskT = TypeVar("TaskT", bound=Task)
ResultT = TypeVar("ResultT", bound=TaskResult)


def run_tasks(
    function: Callable[[TaskT], ResultT],
    tasks: Sequence[TaskT],
    result: type[ResultT],
    *,
    done: Path,
    config: ExecutionConfig,
    name: str,
    unit: str = "images",
) -> list[ResultT]:
    """Run every task that has no done marker, and return all results in the order of the tasks.

    Args:
        function: A module-level function; it must write its outputs atomically.
        tasks: The work. Equal tasks share one marker.
        result: What ``function`` returns.
        done: The folder of the markers.
        config: Where to run.
        name: For the progress bar.
        unit: What a task's ``units`` count.

    Raises:
        DinomillError: Whatever a task raised; finished tasks keep their markers.
        MachineError: When a worker process was killed from outside.
    """
    markers = [done / f"{task.content_hash()}.json" for task in tasks]
    results = {marker: finished for marker in dict.fromkeys(markers) if (finished := _read(marker, result))}
    waiting = {marker: task for marker, task in zip(markers, tasks, strict=True) if marker not in results}
    with progress(name, sum(task.units for task in tasks), unit) as bar:
        bar.advance(sum(task.units for marker, task in zip(markers, tasks, strict=True) if marker in results))
        for marker, finished in _execute(function, result, waiting, done, config):
            write_text(marker, finished.model_dump_json())
            results[marker] = finished
            bar.advance(waiting[marker].units)
    return [results[marker] for marker in markers]


def forget_tasks(tasks: Sequence[Task], *, done: Path) -> None:
    """Remove the markers of tasks whose results were taken over for good: they would only pile up."""
    for task in tasks:
        (done / f"{task.content_hash()}.json").unlink(missing_ok=True)


def worker_count(config: ExecutionConfig) -> int:
    """Processes to use: as configured, or one a CPU that this process may use."""
    if config.workers:
        return config.workers
    # macOS and Windows cannot say which CPUs a process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(marker: Path, result: type[ResultT]) -> ResultT | None:
    """The result in a marker, or None when there is none, it is of another version, or its files are gone."""
    try:
        finished = result.model_validate_json(marker.read_bytes())
    except (OSError, ValueError):
        return None
    return finished if all(path.exists() for path in finished.outputs) else None


def _execute(
    function: Callable[[TaskT], ResultT],
    result: type[ResultT],
    waiting: dict[Path, TaskT],
    done: Path,
    config: ExecutionConfig,
) -> Iterator[tuple[Path, ResultT]]:
    """Yield the marker and the result of each task, in whatever order they end."""
    if not waiting:
        return
    workers = min(worker_count(config), len(waiting))
    if config.executor == "inline" or (config.executor == "processes" and workers == 1):
        for marker, task in waiting.items():
            yield marker, function(task)
    elif config.executor == "ray":
        from dinomill.execution.on_ray import run_on_ray

        yield from run_on_ray(function, waiting, workers)
    elif config.executor == "slurm":
        from dinomill.execution.on_slurm import run_on_slurm

        yield from run_on_slurm(function, result, waiting, done.parent / "slurm", workers).items()
    else:
        yield from _in_processes(function, waiting, workers)


def _in_processes(
    function: Callable[[TaskT], ResultT], waiting: dict[Path, TaskT], workers: int
) -> Iterator[tuple[Path, ResultT]]:
    others = set(active_children())
    pool = ProcessPoolExecutor(
        workers, mp_context=_context(function.__module__), initializer=_settle, initargs=(dict(os.environ),)
    )
    try:
        futures: dict[Future[ResultT], Path] = {pool.submit(function, task): marker for marker, task in waiting.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise MachineError(
            "A worker process was killed from outside.",
            found=f"{workers} workers, {len(waiting)} tasks left when they started",
            expected="workers that live until their tasks are done; the usual cause is too little memory",
            action="use fewer workers (execution.workers) and run the same command again: finished tasks are kept",
        ) from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        # Told to stop: not after the minutes that the tasks under way may take. They are begun anew next time.
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context(module: str) -> BaseContext:
    """How workers start: forked from a clean server that has imported ``module``, where there is such a thing.

    Not forked from this process: its threads (BLAS, OpenMP, PyTorch) may hold locks that a child would wait for.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    # Read when the server starts; it lives as long as this process.
    context.set_forkserver_preload([module, "dinomill.execution.preloaded"])
    with kept_environment(*_THREADS):
        _one_thread_each()
        forkserver.ensure_running()
    return context


def _settle(environment: dict[str, str]) -> None:
    """In a worker: this process's environment as it is now, not as it was when the server started."""
    os.environ.update(environment)
    _one_thread_each()
    end_with_parent()


def _one_thread_each() -> None:
    """Before a worker imports anything that starts threads: one task a CPU, one thread a task."""
    for variable in _THREADS:
        os.environ[variable] = "1"
