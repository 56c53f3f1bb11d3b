"""Whether a requirement of the gate was decided by more than the noise of the labelled images, in words."""

from __future__ import annotations

import math

from dinomill.scores import Difference, Measure, ModelScore


def noise(
    margin: float, difference: float, measure: Measure, paired: Difference | None, *scores: ModelScore | None
) -> str:
    """What is added to a check whose images are too few for it; empty where it is decided for sure.

    Args:
        margin: By how much the requirement was met, in the measure's own scale; negative: missed.
        difference: That it asks about: the one network's value minus the other's.
        measure: What is compared.
        paired: The difference on the same images with its interval; None where only each one's own is known.
        scores: Of both networks; of one alone, when the other's interval is not known: it counts as equally wide.
    """
    if paired is not None:
        low, high = paired.low - difference, paired.high - difference
    else:
        halves = [half for score in scores for half in [_half(score, measure)] if half is not None]
        if not halves:
            return ""
        reach = math.hypot(*halves) if len(halves) > 1 else halves[0] * math.sqrt(2)
        low, high = -reach, reach
    worst, best = (low, high) if measure.higher_is_better else (-high, -low)
    if margin + worst >= 0 or margin + best < 0:
        return ""
    return (
        "; within the noise of these images, by which the difference may be "
        f"{measure.signed(difference + low)} to {measure.signed(difference + high)} {measure.step}".rstrip()
        + ": more labelled images would tell"
    )


def _half(score: ModelScore | None, measure: Measure) -> float | None:
    figure = None if score is None else score.scores.get(measure.name)
    return None if figure is None or figure.high <= figure.low else (figure.high - figure.low) / 2
