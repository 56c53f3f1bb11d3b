"""Whether a requirement of the gate was decided by more than the noise of the labelled images, in words."""

from __future__ import annotations

import math

from dinomill.handles import Difference, ModelScore


def noise(margin: float, difference: float, measure: str, paired: Difference | None, *scores: ModelScore | None) -> str:
    """What is added to a check whose images are too few for it; empty where it is decided for sure.

    Args:
        margin: By how many points the requirement was met; negative: missed.
        difference: That it asks about, points.
        measure: ``knn`` or ``linear``.
        paired: The difference on the same images with its interval; None where only each one's own is known.
        scores: Of both networks; of one alone, when the other's interval is not known: it counts as equally wide.
    """
    if paired is not None:
        low, high = 100 * paired.low - difference, 100 * paired.high - difference
    else:
        halves = [half for score in scores for half in [_half(score, measure)] if half is not None]
        if not halves:
            return ""
        reach = math.hypot(*halves) if len(halves) > 1 else halves[0] * math.sqrt(2)
        low, high = -reach, reach
    if margin + low >= 0 or margin + high < 0:
        return ""
    return (
        f"; within the noise of these images, by which the difference may be {difference + low:+.1f} to "
        f"{difference + high:+.1f} points: more labelled images would tell"
    )


def _half(score: ModelScore | None, measure: str) -> float | None:
    details = {} if score is None else score.details
    low, high = details.get(f"{measure}_low"), details.get(f"{measure}_high")
    return None if low is None or high is None else 100 * (high - low) / 2
