"""Is a training healthy? Pure functions on the figures of the looks so far; no label, no network, no tensor.

The thresholds are named here, each with its reason; docs/pretraining.md says how they were found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

# Of the most prototypes that the monitor's images were ever nearest to. Healthy runs of the sample kept 0.8 and more of
# them; without centering a third was passed after 20 steps, with a rate a hundred times too high after 8.
LOST_PROTOTYPES = 1 / 3
# Of the highest effective rank so far, at its lowest in healthy runs of the sample 0.97; see LOST_PROTOTYPES.
LOST_RANK = 0.6
# An untrained network of the official initialisation maps all images to nearly the same place, and leaves it with the
# first updates: features that were never told apart are no collapse before this share of the run.
GRACE = 0.1
# Dense features decay when patches of an image grow alike: they fill fewer directions than they did at best, and their
# mean cosine has risen above its lowest. In healthy runs of the sample both move a little while image features gain
# (0.95 and 0.046): so much only is a decay when image features lose as well, …
LOST_PATCH_RANK, PATCHES_ALIKE, LOST_IMAGE_RANK = 0.96, 0.03, 0.975
# … and this much is one whatever they do, as on the long runs of DINOv3.
LOST_PATCH_RANK_ALONE, PATCHES_ALIKE_ALONE = 0.8, 0.1
# Or patches are found again less often than they were, by this much: three times the noise of 32 images.
LOST_PATCHES = 0.08
# Looks that a judgement on progress takes: two make a difference, the third tells it from noise.
LOOKS = 3
# A plateau: over this share of the run the measure gained less than this share of all that it had gained.
PLATEAU_SPAN = 0.3
PLATEAU_GAIN = 0.02


class State(StrEnum):
    """How a training is."""

    HEALTHY = "healthy"
    EARLY = "too early"
    PLATEAU = "plateau"
    COLLAPSING = "collapsing"
    DECAYING = "dense features decaying"

    @property
    def bad(self) -> bool:
        """Whether somebody should look."""
        return self in (State.COLLAPSING, State.DECAYING)


@dataclass(frozen=True)
class Reading:
    """The figures of one look; NaN is a figure that could not be taken."""

    step: int
    effective_rank: float  # directions that embeddings of images fill (RankMe)
    similarity: float  # mean cosine of two images' embeddings
    class_rank: float = math.nan  # effective rank of class tokens
    patch_rank: float = math.nan  # effective rank of patch tokens
    patch_likeness: float = math.nan  # mean cosine of two patches of an image
    patch_class_likeness: float = math.nan  # mean cosine of a patch and the class token of its image
    prototypes_used: float = math.nan  # prototypes that images are nearest to: exp of the entropy of their shares
    agreement: float = math.nan  # share of images whose two copies teacher and student give the same prototype
    neighbour_distance: float = math.nan  # geometric mean of the distance of class tokens to the nearest: exp(-KoLeo)
    copies_found: float = math.nan  # how often an augmented copy's nearest image is its original
    patches_found: float = math.nan  # the same of patches within an image, within one and a half patches
    patch_drift: float = math.nan  # root mean square change of patch similarities since about half of the steps
    knn: float = math.nan  # leave-one-out accuracy of nearest neighbours, where there are labels
    distinct_images: float = math.nan  # different pictures among the monitor's

    @property
    def measure(self) -> tuple[str, float]:
        """What the best checkpoint is chosen by: accuracy where there are labels, else effective rank.

        Among looks that are not bad (see ``judge``): of the figures without labels effective rank followed accuracy
        most closely, within a run.
        """
        return ("effective_rank", self.effective_rank) if math.isnan(self.knn) else ("knn", self.knn)

    def row(self) -> dict[str, float]:
        """The figures by the names under which they are recorded, without the step and what could not be taken."""
        return {name: value for name, value in asdict(self).items() if name != "step" and not math.isnan(value)}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self | None:
        """The reading that a row of the curve holds, or None."""
        if row.get("effective_rank") is None:
            return None
        names = {field.name for field in fields(cls)} & {name for name, value in row.items() if value is not None}
        return cls(**{name: row[name] for name in names if name != "step"}, step=int(row["step"]))

    def __str__(self) -> str:
        parts = [] if math.isnan(self.knn) else [f"kNN {self.knn:.1%}"]
        parts += [f"effective rank {self.effective_rank:.1f}", f"similarity {self.similarity:.3f}"]
        if not math.isnan(self.copies_found):
            parts.append(f"copies found {self.copies_found:.0%}")
        if not math.isnan(self.patches_found):
            parts.append(f"patches found {self.patches_found:.0%}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Limits:
    """What a configuration says of a collapse."""

    min_effective_rank: float = 2.0
    max_similarity: float = 0.995


@dataclass(frozen=True)
class Verdict:
    """A judgement on a look, after those before it."""

    state: State
    reason: str
    action: str = ""
    collapsed: bool = False  # features are alike in absolute terms, not only worse than they were

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" + (f"; {self.action}" if self.action else "")


LOWER_RATE = "lower the learning rate or lengthen its warmup; if that does not help, lower the teacher temperature"
CENTRE = (
    "look at the centering: sinkhorn_knopp instead of softmax, more images a step, a lower teacher temperature, "
    "a lower learning rate"
)
MORE_IMAGES = "look at what curation kept: training needs images that differ"
ANCHOR = (
    "set step.losses.gram (Gram anchoring), lower step.losses.ibot_weight if it was raised, or stop here and take the "
    "best checkpoint if dense features matter"
)
GO_ON = "nothing is wrong; it need not run longer, unless the schedule still has to end"
# A student of a frozen teacher: what it is near to does not move, and its loss is a distance to that.
KEEP_PATCHES = (
    "lower step.losses.ibot_weight if it was raised, with the objective `assignments` set step.losses.gram (Gram "
    "anchoring to the teacher), or take the best checkpoint if dense features matter"
)
AS_TAUGHT = "nothing is wrong: a student rises to about what its teacher has; whether it still learns, its loss says"


def judge(looks: Sequence[Reading], *, steps: int, limits: Limits | None = None, distils: bool = False) -> Verdict:
    """Judge the last of the looks so far.

    Args:
        looks: In order of steps, the one to judge last; at least one.
        steps: Length of the run.
        limits: Of a collapse in absolute terms.
        distils: Whether a frozen teacher is learnt from. Its patches may be more alike than those of the untrained
            student: coming nearer to it from there is no decay. What is looked at is then the student.
    """
    now, before = looks[-1], looks[:-1]
    limits = limits or Limits()
    if now.distinct_images < 2:
        return Verdict(
            State.COLLAPSING, "all images that the monitor looks at are the same picture", MORE_IMAGES, collapsed=True
        )
    return (
        _collapsed(now, before, steps, limits, "student" if distils else "teacher")
        or _collapsing(now, before)
        or _decaying(now, [look for look in before if look.step or not distils], KEEP_PATCHES if distils else ANCHOR)
        or _early(now, before, steps)
        or _plateau(looks, steps, AS_TAUGHT if distils else GO_ON)
        or Verdict(State.HEALTHY, _progress(looks))
    )


def earlier_step(steps: Sequence[int], now: int) -> int | None:
    """The look that patch similarities are compared with: the last one at half of the steps or before."""
    return max((step for step in steps if step <= now / 2 and step != now), default=None)


def _alike(look: Reading, limits: Limits) -> bool:
    alike = look.effective_rank < limits.min_effective_rank or look.similarity > limits.max_similarity
    return alike or math.isnan(look.effective_rank)


def _collapsed(now: Reading, before: Sequence[Reading], steps: int, limits: Limits, whom: str) -> Verdict | None:
    if not _alike(now, limits):
        return None
    figures = f"effective rank {now.effective_rank:.1f}, mean similarity {now.similarity:.3f}"
    if now.step < GRACE * steps and all(_alike(look, limits) for look in before):
        return Verdict(State.EARLY, f"the network does not tell images apart yet ({figures})")
    return Verdict(State.COLLAPSING, f"all images look alike to the {whom} ({figures})", LOWER_RATE, collapsed=True)


def _collapsing(now: Reading, before: Sequence[Reading]) -> Verdict | None:
    used = _most(before, "prototypes_used")
    if now.prototypes_used < LOST_PROTOTYPES * used:
        reason = f"images are nearest to {now.prototypes_used:.1f} prototypes; they were to {used:.1f}"
        return Verdict(State.COLLAPSING, reason, CENTRE)
    rank = _most(before, "effective_rank")
    if now.effective_rank < LOST_RANK * rank:
        reason = f"effective rank fell from {rank:.1f} to {now.effective_rank:.1f}"
        return Verdict(State.COLLAPSING, reason, LOWER_RATE)
    return None


def _decaying(now: Reading, before: Sequence[Reading], action: str) -> Verdict | None:
    rank, alike = _most(before, "patch_rank"), _least(before, "patch_likeness")
    image = _most(before, "effective_rank")
    kept, grown = now.patch_rank / rank, now.patch_likeness - alike
    with_images = kept < LOST_PATCH_RANK and grown > PATCHES_ALIKE and now.effective_rank < LOST_IMAGE_RANK * image
    if with_images or (kept < LOST_PATCH_RANK_ALONE and grown > PATCHES_ALIKE_ALONE):
        reason = (
            f"patches of an image grow alike: mean cosine {now.patch_likeness:.3f} from {alike:.3f}, their effective "
            f"rank {now.patch_rank:.1f} from {rank:.1f}"
        )
        if with_images:
            reason += f", and that of images {now.effective_rank:.1f} from {image:.1f}"
        return Verdict(State.DECAYING, reason, action)
    found = _most(before, "patches_found")
    if now.patches_found < found - LOST_PATCHES:
        reason = f"{now.patches_found:.0%} of patches are found again in a copy of their image, of {found:.0%} at best"
        return Verdict(State.DECAYING, reason, action)
    return None


def _early(now: Reading, before: Sequence[Reading], steps: int) -> Verdict | None:
    if len(before) + 1 < LOOKS or now.step < GRACE * steps:
        short = f"a run of {steps:,} steps is too short to be judged"
        said = short if now.step >= steps else f"{now.step:,} of {steps:,} steps say nothing yet"
        return Verdict(State.EARLY, f"{said} ({now})")
    return None


def _plateau(looks: Sequence[Reading], steps: int, action: str) -> Verdict | None:
    name = looks[-1].measure[0]
    values = [(look.step, value) for look in looks for value in [getattr(look, name)] if not math.isnan(value)]
    old = [value for step, value in values if step <= looks[-1].step - PLATEAU_SPAN * steps]
    new = [value for step, value in values if step > looks[-1].step - PLATEAU_SPAN * steps]
    if len(old) < 2 or len(new) < 2:
        return None
    gained, before = max(new) - max(old), max(old) - values[0][1]
    if gained > PLATEAU_GAIN * max(before, 0.0):
        return None
    best = (
        f"kNN has not risen above {max(old):.1%}"
        if name == "knn"
        else f"{name.replace('_', ' ')} has not risen above {max(old):.4g}"
    )
    reason = f"{best} for {PLATEAU_SPAN:.0%} of the run"
    return Verdict(State.PLATEAU, reason, action)


def _progress(looks: Sequence[Reading]) -> str:
    name, now = looks[-1].measure
    first = next(look for look in looks if not math.isnan(getattr(look, name)))
    if first.step == looks[-1].step:
        return f"{looks[-1]}"
    gained = now - getattr(first, name)
    shown = f"kNN {100 * gained:+.1f} points" if name == "knn" else f"effective rank {gained:+.1f}"
    return f"{looks[-1]} ({shown} since step {first.step:,})"


def _most(looks: Sequence[Reading], name: str) -> float:
    """NaN, with which nothing compares, when the figure was never taken."""
    return max((value for look in looks for value in [getattr(look, name)] if not math.isnan(value)), default=math.nan)


def _least(looks: Sequence[Reading], name: str) -> float:
    return min((value for look in looks for value in [getattr(look, name)] if not math.isnan(value)), default=math.nan)
