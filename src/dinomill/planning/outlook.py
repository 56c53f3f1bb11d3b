"""What a stage will probably take: as long as its last run, else as the planner predicted; unknown where neither is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dinomill.planning.measured import Measured
from dinomill.planning.prediction import PLAN_NAME, Prediction

_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class Outlook:
    """What one stage will probably take."""

    images: int = 0
    seconds: float | None = None  # None: unknown
    memory_bytes: int = 0
    measured: bool = False

    @property
    def shown_time(self) -> str:
        """For people."""
        return (
            "time unknown" if self.seconds is None else f"{'' if self.measured else 'about '}{duration(self.seconds)}"
        )


def outlook(stages: tuple[str, ...], *, work: Path, environment: Path) -> dict[str, Outlook]:
    """What each of some stages will probably take.

    Args:
        stages: Their names.
        work: Where the last runs are recorded.
        environment: The folder of the configuration that the planner wrote, with its prediction.

    Raises:
        InputError: When there is a prediction that cannot be read.
    """
    last = Measured.load(work).stages
    predicted = prediction_of(environment)
    found = {}
    for stage in stages:
        if took := last.get(stage):
            found[stage] = Outlook(took.images, took.seconds, took.memory_bytes, measured=True)
        elif predicted and (will := predicted.stages.get(stage)):
            found[stage] = Outlook(will.images, will.seconds, will.memory_bytes)
        else:
            found[stage] = Outlook()
    return found


def prediction_of(environment: Path) -> Prediction | None:
    """The planner's prediction; None where it wrote none.

    Raises:
        InputError: When it cannot be read.
    """
    path = environment / PLAN_NAME
    return Prediction.load(path) if path.is_file() else None


def total(outlooks: Mapping[str, Outlook]) -> str | None:
    """The time of some stages together, for people; None when none of it is known."""
    known = [one.seconds for one in outlooks.values() if one.seconds is not None]
    if not known:
        return None
    more = " and what is unknown" if len(known) < len(outlooks) else ""
    return f"about {duration(sum(known))}{more}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as few digits as say something."""
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def size(amount: int) -> str:
    """Bytes as MB or GB."""
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e9 else f"{amount / 1e6:,.0f} MB"
