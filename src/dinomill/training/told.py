"""Which rows of the curve an MLflow run lacks, and under which names it gets them."""

from __future__ import annotations

from collections.abc import Mapping

from dinomill.tracking import Run

# By these names MLflow shows them under "System metrics".
_SYSTEM = {
    "cpu_percent": "system/cpu_utilization_percentage",
    "host_memory_percent": "system/system_memory_usage_percentage",
    "gpu_percent": "system/gpu_0_utilization_percentage",
    "gpu_memory_percent": "system/gpu_0_memory_usage_percentage",
}


class Told:
    """What a run has been told.

    Args:
        run: The MLflow run.
        again: The step from which on the steps are made again with other images: their rows replace what the run has.
    """

    def __init__(self, run: Run, again: int | None = None) -> None:
        self._run, self._again = run, again
        self._has: dict[str, int] = {}

    def is_new(self, step: int, row: Mapping[str, float]) -> bool:
        """Whether the MLflow run lacks a row: steps that are made again after a kill give the same numbers."""
        kind = _kind(row)
        if kind not in self._has:
            last = self._run.last_step(kind)
            self._has[kind] = last if self._again is None else min(last, self._again)
        return step > self._has[kind]

    def note(self, step: int, row: Mapping[str, float]) -> None:
        """A row was told to the run."""
        kind = _kind(row)
        self._has[kind] = max(step, self._has.get(kind, -1))

    def go_back(self, step: int) -> None:
        """What comes after a step is made again with other images."""
        self._has = {kind: min(last, step) for kind, last in self._has.items()}


def shown(row: Mapping[str, float]) -> dict[str, float]:
    """A row by MLflow's names."""
    return {_SYSTEM.get(name, name): value for name, value in row.items()}


def _kind(row: Mapping[str, float]) -> str:
    # The terms of the steps and the looks have rows of their own; one is written whole or not at all.
    return "learning_rate" if "learning_rate" in row else "effective_rank"
