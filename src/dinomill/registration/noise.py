"""Whether a requirement of the gate was decided by more than the noise of the labelled images, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dinomill.scores import Difference, Figure, Measure


@dataclass(frozen=True)
class Other:
    """What a score is held against.

    Args:
        whom: In words.
        value: Its value.
        figure: The same with its interval; None where it is not known.
        paired: The difference on the same images with its interval; None where only each one's own is known.
    """

    whom: str
    value: float
    figure: Figure | None = None
    paired: Difference | None = None


def noise(measure: Measure, own: Figure, other: Other, required: float) -> str:
    """What is added to a check whose images are too few for it; empty where it is decided for sure.

    Args:
        measure: By which both are compared.
        own: The score that is judged.
        other: What it is held against; one whose interval is not known counts as equally unsure.
        required: By how much it has to be ahead, in the requirements' unit; negative: how far it may be behind.
    """
    if other.paired is not None:
        low, high = other.paired.low, other.paired.high
    else:
        halves = [(figure.high - figure.low) / 2 for figure in (own, other.figure) if figure is not None]
        reach = math.hypot(*halves) if len(halves) > 1 else halves[0] * math.sqrt(2)
        low, high = own.value - other.value - reach, own.value - other.value + reach
    worst, best = sorted(measure.sign * measure.scale * end for end in (low, high))
    if worst == best or worst >= required or best < required:
        return ""
    return (
        f"; within the noise of these images, by which the difference may be {measure.signed(low)} to "
        f"{measure.signed(high)} {measure.step}".rstrip()
        + ": more labelled images would tell"
    )
