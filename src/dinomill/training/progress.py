"""What one sees while it trains: a bar on a terminal, a line now and then anywhere else; always on stderr."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

# Between two lines where there is no terminal: often enough to see life, rare enough for a log.
_SECONDS_BETWEEN_LINES = 15.0


@dataclass
class Clock:
    """Where the time of the steps went since the last reading.

    Args:
        now: Seconds; replaced in tests.
    """

    now: Callable[[], float] = time.monotonic
    _since: float = field(init=False)
    _waited: float = field(default=0.0, init=False)
    _apart: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._since = self.now()

    def waiting(self, source: Iterable[T]) -> Iterator[T]:
        """Pass the items on and count the time spent waiting for them."""
        iterator = iter(source)
        while True:
            begun = self.now()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += self.now() - begun
            yield item

    def apart(self, seconds: float) -> None:
        """Leave out time that was no training: a checkpoint, a measurement."""
        self._apart += seconds

    def read(self) -> tuple[float, float]:
        """Seconds of training since the last reading, and the share of them spent waiting for data."""
        now = self.now()
        seconds = max(now - self._since - self._apart, 1e-9)
        share = min(self._waited / seconds, 1.0)
        self._since, self._waited, self._apart = now, 0.0, 0.0
        return seconds, share


class ProgressBar:
    """Step, images a second, time left, share of time waiting for data, memory, loss.

    Args:
        title: What is going on: ``pretraining``.
        steps: All steps of the run.
        done: Steps already done when a run is continued.
        enabled: False on ranks other than 0.
        console: Where to draw; stderr by default.
    """

    def __init__(
        self, title: str, *, steps: int, done: int = 0, enabled: bool = True, console: Console | None = None
    ) -> None:
        self._title = title
        self._steps = steps
        self._console = console or Console(stderr=True)
        self._interactive = enabled and self._console.is_terminal
        self._lines = enabled and not self._interactive
        self._last_line = float("-inf")
        self._begun = (time.monotonic(), done)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._interactive,
        )
        self._task = self._bar.add_task(title, total=steps, completed=done, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar; costs nothing and reads nothing from a device."""
        self._bar.update(self._task, completed=step)

    def report(self, step: int, row: Mapping[str, float]) -> None:
        """Show the figures of a logged row: ``loss``, ``images_per_second``, ``data_wait``, ``memory_gb``."""
        figures = (
            f"loss {row['loss']:.3f} · {row['images_per_second']:,.0f} images/s · "
            f"data wait {row['data_wait']:.0%} · {row['memory_gb']:.1f} GB"
        )
        self._bar.update(self._task, completed=step, figures=figures)
        now = time.monotonic()
        if self._lines and (now - self._last_line >= _SECONDS_BETWEEN_LINES or step >= self._steps):
            self._last_line = now
            self._print(f"{self._title}: step {step:,}/{self._steps:,} · {figures} · {self._time_left(step)} left")

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        if self._interactive or self._lines:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _time_left(self, step: int) -> str:
        begun, done = self._begun
        if step <= done:
            return "?"
        seconds = int((time.monotonic() - begun) / (step - done) * (self._steps - step))
        hours, rest = divmod(seconds, 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


# What `machine_load` tells, where the machine does.
MACHINE_LOAD = frozenset(
    {"cpu_percent", "host_memory_percent", "gpu_percent", "gpu_memory_percent", "gpu_watts", "cpu_joules"}
)

# What the processor package has used, in microjoules (RAPL).
_JOULES = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


def machine_load(device: torch.device) -> dict[str, float]:
    """How busy the machine is, in percent: processors since the last call, memory, and of a GPU the same.

    And what it takes, for the model's card: the GPU's watts, the joules that the processor has counted. Nothing waits
    for the device. Where the driver's library is missing, the GPU's figures are.
    """
    load = {"cpu_percent": psutil.cpu_percent(), "host_memory_percent": psutil.virtual_memory().percent}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        load["gpu_memory_percent"] = 100 * (1 - free / total)
        # The driver's library may be missing, and has errors of its own kind: a slice of a GPU tells no power.
        with suppress(Exception):
            load["gpu_percent"] = float(torch.cuda.utilization(device))
        with suppress(Exception):
            load["gpu_watts"] = torch.cuda.power_draw(device) / 1000
    with suppress(OSError, ValueError):  # most machines let the administrator alone read it
        load["cpu_joules"] = int(_JOULES.read_text(encoding="ascii")) / 1e6
    return load


def memory_gb(device: torch.device) -> float:
    """The peak memory in GB (1e9 bytes): of the device when it is a GPU, of this process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    # On Linux the figure of getrusage is inherited from whoever started the process, if that was larger.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    # macOS counts bytes, the others kilobytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
