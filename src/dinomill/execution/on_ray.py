"""Shard tasks by Ray Data, on the cluster that RAY_ADDRESS names, or on one of this machine for as long as they run.

Ray Data rather than bare Ray tasks: it holds back tasks that nobody is free for, and streams results as they come, in
whatever order. A task is one row of one block, so that each is scheduled, and tried again, on its own; its marker is
written by the process that asked, as soon as its result is there. docs/decisions/0011-ray-data.md has what that costs.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dinomill.errors import MachineError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_RETRIES = 3  # of a task whose worker or node died
_BARS = ("enable_progress_bars", "enable_operator_progress_bars", "print_on_execution_start")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def run_on_ray(
    function: Callable[[TaskT], ResultT], waiting: dict[Path, TaskT], workers: int
) -> Iterator[tuple[Path, ResultT]]:
    """Yield the marker and the result of each task as it ends; a task has one CPU and is tried again if its node dies.

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
        import ray.data
    except ImportError:
        raise MachineError("Ray is not installed.", action="pip install 'dinomill[ray]'") from None
    with _cluster(workers), _quiet():
        rows = [{"marker": str(marker), "task": pickle.dumps(task)} for marker, task in waiting.items()]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Run(function), num_cpus=1, ray_remote_args_fn=lambda: {"max_retries": _RETRIES}
        )
        try:
            for row in found.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
                yield Path(row["marker"]), pickle.loads(row["result"])
        except ray.exceptions.RayError as error:
            raise MachineError(
                "Ray lost a shard task.",
                found=str(error).splitlines()[0],
                action="see the cluster's log, then run the same command again: finished tasks are kept",
            ) from None


class _Run:
    """A row with a task to a row with its result or its error.

    Errors travel as values: Ray Data would wrap them, and stop at some that are not the user's.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Run one task; what it raises is handed back, too."""
        result = error = b""
        try:
            result = pickle.dumps(self._function(pickle.loads(row["task"])))
        except Exception as raised:
            error = pickle.dumps(raised)
        return {"marker": row["marker"], "result": result, "error": error}


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """A connection to the cluster: one that there is already, one at RAY_ADDRESS, or one of our own."""
    import ray

    if ray.is_initialized():
        yield
        return
    ours: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    # Of the whole job: given to single tasks, every worker would be started twice.
    environment = {"env_vars": _ONE_THREAD}
    ray.init(runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR, **ours)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without its own bars and lines: run_tasks has a bar."""
    from ray.data import DataContext

    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    before, level = {name: getattr(context, name) for name in _BARS}, logger.level
    try:
        for name in _BARS:
            setattr(context, name, False)
        logger.setLevel(logging.CRITICAL)  # what it reports, it raises as well
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)
