"""What the machine does while a stage runs: processors, memory, disk, network and GPUs, as MLflow's own system metrics.

They are sampled here rather than by MLflow's monitor, which gives up at the first request that fails: these wait with
the run's other metrics until the store is back. MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false switches them off,
MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL sets the seconds between two.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dinomill.tracking.run import Run

log = logging.getLogger(__name__)

_OFF = ("false", "0", "no", "off")
_SECONDS = 15.0
_PREFIX = "system/"
_FIRST = f"{_PREFIX}system_memory_usage_megabytes"
# A training writes these itself, on the axis of its steps.
_OF_TRAINING = ("cpu_utilization_percentage", "system_memory_usage_percentage", "gpu_")


@contextmanager
def machine_measured(run: Run, *, training: bool = False) -> Iterator[None]:
    """Sample the machine while the block runs, by a thread; once at least.

    Args:
        run: Where it is written.
        training: Whether the run is a training's, which writes some of it by itself.
    """
    if not run.writes or os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in _OFF:
        yield
        return
    ended = threading.Event()
    left_out = _OF_TRAINING if training else ()
    thread = threading.Thread(target=_sample_on, args=(run, ended, left_out), name="dinomill-machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5)


def _seconds() -> float:
    with suppress(KeyError, ValueError):
        return max(float(os.environ["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"]), 0.1)
    return _SECONDS


def _sample_on(run: Run, ended: threading.Event, left_out: tuple[str, ...]) -> None:
    try:
        monitors = _monitors()
        step, of_run = -1, ""
        while True:
            last = ended.wait(_seconds())
            if run.run_id != of_run:  # an earlier run goes on in this one: so do its steps
                of_run = run.run_id or ""
                step = run.last_step(_FIRST)
            step += 1
            run.log_metrics(_sampled(monitors, left_out), step)
            if last:
                return
    except Exception as error:  # figures of the machine must never end a stage
        log.warning("The machine is not measured any more: %s: %s", type(error).__name__, error)


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
    monitors: list[Any] = [kind() for kind in kinds]
    with suppress(Exception):  # no GPU, or nvidia-ml-py is not installed
        from mlflow.system_metrics.metrics import gpu_monitor

        on_gpu: Any = gpu_monitor.GPUMonitor
        monitors.append(on_gpu())
    for monitor in monitors:
        monitor.collect_metrics()  # the processor's share is since the last call: the first says nothing
        monitor.clear_metrics()
    return monitors


def _sampled(monitors: list[Any], left_out: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        measured = {name: float(value) for name, value in monitor.aggregate_metrics().items()}
        found |= {f"{_PREFIX}{name}": value for name, value in measured.items() if not name.startswith(left_out or "/")}
        monitor.clear_metrics()
    return found
