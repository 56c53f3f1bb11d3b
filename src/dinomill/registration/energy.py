"""What a training cost: hours from its curve, and energy where the machine told it or somebody states its power."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.arrays import Figures

_JOULES = 3.6e6  # of a kilowatt-hour


@dataclass(frozen=True)
class Spent:
    """Of the steps in the curve: looks, checkpoints and steps that a kill undid are not in it."""

    hours: float | None  # None: there is no curve
    kwh: float | None  # None: nobody knows
    how: str  # where the energy comes from, or why there is none


def spent(history: Path | None, watts: float | None = None) -> Spent:
    """Read what a run wrote down of its machine.

    Args:
        history: ``machine.parquet`` of a training, or the ``history.parquet`` of an earlier version, which held the
            same; None: no run is known.
        watts: Of the machine while it trains, where somebody stated it.
    """
    if history is None:
        return Spent(None, None, "the registry knows no run that made these weights")
    if not history.is_file():
        return Spent(None, None, "there is no curve of the training")
    try:
        names = pq.read_schema(history).names
        if not {"images", "images_per_second"} <= set(names):
            return Spent(None, None, "the curve of the training has no speed")
        wanted = [name for name in ("images", "images_per_second", "gpu_watts", "cpu_joules") if name in names]
        columns = _columns(history, wanted)
    except (pa.ArrowException, OSError):  # a card is no place to stop at it; the report names the file
        return Spent(None, None, "the curve of the training cannot be read")
    rows = np.isfinite(columns["images_per_second"]) & (columns["images_per_second"] > 0)
    if not rows.any():
        return Spent(None, None, "the curve of the training has no speed")
    seconds = np.diff(columns["images"][rows], prepend=0.0) / columns["images_per_second"][rows]
    hours = float(seconds.sum()) / 3600
    measured, sources = 0.0, []
    if "gpu_watts" in columns and np.isfinite(power := columns["gpu_watts"][rows]).any():
        measured += float(np.nansum(power * seconds))
        sources.append("power of one GPU, the main process's")
    if "cpu_joules" in columns and np.isfinite(columns["cpu_joules"][rows]).sum() > 1:
        measured += _counted(columns["cpu_joules"][rows])
        sources.append("the processor's counter (RAPL), whole package, with whatever else ran")
    if sources:
        return Spent(
            hours, measured / _JOULES, f"measured: {' and '.join(sources)}; memory, disks and cooling left out"
        )
    if watts is not None:
        return Spent(hours, hours * watts / 1000, f"estimated: {watts:g} W, as configured, for the hours of the curve")
    return Spent(hours, None, "the machine did not tell its power, and registration.watts does not state it")


def _columns(history: Path, names: list[str]) -> dict[str, Figures]:
    table = pq.read_table(history, columns=names)
    return {name: table[name].to_numpy().astype(np.float64) for name in names}


def _counted(joules: Figures) -> float:
    """Of a counter that begins anew at its end, and with every start of the machine."""
    known = joules[np.isfinite(joules)]
    steps = np.diff(known)
    return float(steps[steps > 0].sum())
