"""What is told of a training while it runs: to the curve, to MLflow and to the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dinomill.tracking import Run
from dinomill.training.health import Reading, Verdict
from dinomill.training.history import History, Recorder
from dinomill.training.parallel import World
from dinomill.training.progress import Clock, ProgressBar, machine_load, memory_gb
from dinomill.training.schedules import ScheduleValues

# By these names MLflow shows them under "System metrics".
_SYSTEM = {
    "cpu_percent": "system/cpu_utilization_percentage",
    "host_memory_percent": "system/system_memory_usage_percentage",
    "gpu_percent": "system/gpu_0_utilization_percentage",
    "gpu_memory_percent": "system/gpu_0_memory_usage_percentage",
}


@dataclasses.dataclass
class Reporter:
    """Writes rows everywhere at once.

    Args:
        batch_size: Images a step, over all processes.
        done: Steps that were done when this process began.
        world: The processes.
        history: The curve.
        run: The MLflow run.
        bar: The terminal.
        clock: Where the time went.
        again: The step from which on the steps are made again with other images: their rows replace what the run has.
    """

    batch_size: int
    done: int
    world: World
    history: History
    run: Run
    bar: ProgressBar
    clock: Clock
    again: int | None = None

    def __post_init__(self) -> None:
        self._last = self.done
        self._has: dict[str, int] = {}
        # A continued run goes on in its MLflow run, which lacks some rows at most; a new one gets the whole curve.
        self.run.log_metrics([(step, row) for step, row in self.history.by_step() if self._is_new(step, row)])

    def steps(self, recorder: Recorder, values: ScheduleValues, step: int, *, unreadable: int = 0) -> None:
        """A row on the steps since the last one, read already: means of the loss terms, schedules, speed.

        Args:
            recorder: Of the terms.
            values: Of the schedules, at the last of the steps.
            step: Steps done.
            unreadable: Images that could not be read since the first step; shown where there are any.
        """
        scheduled = {k: v for k, v in dataclasses.asdict(values).items() if k != "step" and v is not None}
        seconds, data_wait = self.clock.read()
        speed = {
            "images_per_second": (step - self._last) * self.batch_size / seconds,
            "data_wait": data_wait,
            "memory_gb": memory_gb(self.world.device),
            **machine_load(self.world.device),
        }
        self._last = step
        lost = {"unreadable": float(unreadable)} if unreadable else {}
        row = {**recorder.means(), **scheduled, **speed, **lost}
        self._write(step, row)
        if "loss" in row:  # else every update since the last row was left out
            self.bar.report(step, row)

    def reading(self, reading: Reading, verdict: Verdict, picture: Path | None) -> None:
        """A row on a look of the monitor, with the verdict in words; its picture goes to MLflow."""
        step = reading.step
        self._write(step, reading.row(), {"verdict": verdict.state.value, "reason": verdict.reason})
        self.bar.say(f"step {step:,}: {verdict}")
        self.run.set_tags({"health": f"step {step:,}: {verdict}"})
        if picture is not None and self.run.writes:
            self.run.log_artifacts(picture, "looks")

    def _write(self, step: int, row: dict[str, float], words: dict[str, str] | None = None) -> None:
        self.history.append({"step": step, "images": step * self.batch_size, **row, **(words or {})})
        if self._is_new(step, row):
            self.run.log_metrics({_SYSTEM.get(name, name): value for name, value in row.items()}, step)

    def _is_new(self, step: int, row: Mapping[str, float]) -> bool:
        """Whether the MLflow run lacks a row: steps that are made again after a kill give the same numbers."""
        # The terms of the steps and the looks have rows of their own; one is written whole or not at all.
        kind = "learning_rate" if "learning_rate" in row else "effective_rank"
        if kind not in self._has:
            last = self.run.last_step(kind)
            self._has[kind] = last if self.again is None else min(last, self.again)
        return step > self._has[kind]
