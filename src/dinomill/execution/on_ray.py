"""Shard tasks on a Ray cluster: the one that RAY_ADDRESS names, or one on this machine for as long as they run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from dinomill.errors import MachineError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def run_on_ray(
    function: Callable[[TaskT], ResultT], waiting: dict[Path, TaskT], workers: int
) -> Iterator[tuple[Path, ResultT]]:
    """Yield the marker and the result of each task as it ends; a task has one CPU and is tried thrice if its node dies.

    Args:
        function: A module-level function.
        waiting: Tasks by marker. Sources and work folder must be visible from every node.
        workers: CPUs of a cluster started here; a running cluster decides for itself.

    Raises:
        MachineError: When Ray is not installed, or kept losing a task's worker.
        DinomillError: Whatever a task raised.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MachineError("Ray is not installed.", action="pip install 'dinomill[ray]'") from None
    started = not ray.is_initialized()
    if started:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        remote = ray.remote(num_cpus=1, max_retries=3, runtime_env={"env_vars": variables})(function)
        running = {remote.remote(task): marker for marker, task in waiting.items()}
        while running:
            (ended,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ended), ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise MachineError(
            "Ray lost a shard task.",
            found=str(error).splitlines()[0],
            action="see the cluster's log, then run the same command again: finished tasks are kept",
        ) from None
    finally:
        if started:
            ray.shutdown()
