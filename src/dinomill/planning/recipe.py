"""From images, machine and hours to every value of a run, each with its reason.

A pure function: the same pool, machine and measurements give the same plan. The reasons rest on what was measured with
this engine (docs/pretraining.md, docs/performance.md) and on the published recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinomill.errors import InputError
from dinomill.planning.choices import Choices, Measured, Wish, in_words
from dinomill.planning.machine import Machine
from dinomill.planning.pool import Pool
from dinomill.planning.prediction import Prediction, Steps, guess, predict
from dinomill.planning.shape import SMALL_SIDE, Shape, decide

MIN_IMAGES = 8
# How often each image may be seen. More teaches a small set by heart.
MAX_EPOCHS = 100
MAX_EPOCHS_STARTED = 30
_RESERVE = 0.95  # of the hours are shared out: machines have other things to do
_LEAST_STEPS = 10
FEWEST_MEASURED = (
    1200  # labelled images that evaluation measures on, where there are so many: ±3 points at a third of them
)
FEWEST_LABELLED = 400  # … that the monitor looks at


@dataclass(frozen=True)
class Plan:
    """Everything that is decided, and what it will take."""

    wish: Wish
    pool: Pool
    machine: Machine
    shape: Shape
    measured: Measured
    steps: Steps
    bound: str  # what ends pretraining: time or epochs
    choices: Choices
    prediction: Prediction

    @property
    def epochs(self) -> float:
        """How often pretraining sees each picture."""
        return self.steps.pretraining * self.shape.batch / max(self.pool.distinct, 1)


def plan(wish: Wish, pool: Pool, machine: Machine, measured: Measured | None = None) -> Plan:
    """Decide everything.

    Args:
        wish: What the user asks for.
        pool: The images.
        machine: What is there to compute with.
        measured: What the probe measured; None: rates are guessed, to have something to probe.

    Raises:
        InputError: When there are too few images to learn from.
    """
    from dinomill.planning import recipe_stages, recipe_training

    if pool.distinct < MIN_IMAGES:
        # Copies of one picture pass for a pool, until nothing is left of them but that one.
        same = pool.distinct == 1 < pool.images
        copies = "" if pool.distinct == pool.images else f"{pool.distinct} different picture{'s' * (not same)} among "
        raise InputError(
            f"{', '.join(pool.locations)} holds "
            + ("one picture only, again and again." if same else "too few images to learn from."),
            found=f"{copies}{pool.images:,} usable of {pool.files:,} files",
            expected=f"at least {MIN_IMAGES}; some thousands to learn anything",
            action="name the folder that holds all your images",
        )
    shape = decide(wish, pool, machine)
    measured = measured or guess(pool, machine, shape)
    steps, bound = _steps(wish, pool, machine, shape, measured)
    choices: Choices = {}
    parts = [recipe_stages.curation, recipe_training.pretraining, recipe_training.distillation]
    parts += [recipe_stages.evaluation, recipe_stages.registration]
    if wish.teacher is not None:
        parts.remove(recipe_training.pretraining)
    for part in parts:
        choices |= part(wish, pool, machine, shape, steps, bound)
    choices |= recipe_stages.reporting()
    prediction = predict(wish, pool, machine, shape, measured, steps)
    return Plan(wish, pool, machine, shape, measured, steps, bound, choices, prediction)


def _steps(wish: Wish, pool: Pool, machine: Machine, shape: Shape, measured: Measured) -> tuple[Steps, str]:
    """Numbers of steps: the hours that the other stages leave, bounded by epochs; and which of the two it was."""
    budget = wish.hours * 3600
    small = Steps(
        pretraining=0,
        distillation=0,
        random_networks=_random_networks(measured),
        images_per_task=max(64, min(1024, pool.images // (4 * machine.cores))),
        **_labelled(wish, measured, budget),
    )
    looked = _looks(wish, measured, budget)
    small = small.model_copy(update=looked)
    others = predict(wish, pool, machine, shape, measured, small).seconds
    left = max(budget * _RESERVE - others, 0.0)
    share = 0.0 if wish.teacher is not None else 0.5 if wish.start is not None else 0.65
    epochs = MAX_EPOCHS_STARTED if wish.start is not None else MAX_EPOCHS
    per_epoch = max(pool.distinct / shape.batch, 1.0)
    affordable = int(left * share / measured.pretraining_step)
    bounded = int(epochs * per_epoch)
    left_for_students, most = int(left * (1 - share) / measured.distillation_step), int(MAX_EPOCHS * per_epoch)
    update = {"distillation": max(_LEAST_STEPS, _rounded(min(left_for_students, most)))}
    if wish.teacher is not None:
        return small.model_copy(update=update), _bound(wish, left_for_students, most, MAX_EPOCHS, others)
    update["pretraining"] = max(_LEAST_STEPS, _rounded(min(affordable, bounded)))
    steps = small.model_copy(update=update)
    return steps, _bound(wish, affordable, bounded, epochs, others)


def _bound(wish: Wish, affordable: int, bounded: int, epochs: int, others: float) -> str:
    if affordable < _LEAST_STEPS:
        return (
            f"the other stages alone take about {in_words(others / 3600)} of the {in_words(wish.hours)} asked for: "
            "the fewest steps that can be called a run"
        )
    if affordable > bounded:
        return f"{epochs} epochs, no more: more would teach the images by heart; the hours are not used up"
    words = in_words(wish.hours)
    return f"what {words} {'leaves' if words == 'one hour' else 'leave'} beside the other stages"


def _rounded(steps: int) -> int:
    """Down to two figures: nobody measures better."""
    if steps < 100:
        return steps
    unit = 10 ** (len(str(steps)) - 2)
    return int(steps // unit * unit)


def _random_networks(measured: Measured) -> int:
    """Three draws where they cost nothing, else one."""
    return 3 if measured.teacher_rate > 150 else 1


def _labelled(wish: Wish, measured: Measured, budget: float) -> dict[str, int]:
    """Labelled images that are measured on: a twelfth of the hours, but enough for a telling interval."""
    if not wish.labelled:
        return {"bank": 0, "queries": 0}
    networks = 6
    affordable = max(int(budget / 12 * measured.teacher_rate / networks), FEWEST_MEASURED)
    queries = min(wish.queries, affordable // 3)
    return {"queries": queries, "bank": min(wish.bank, affordable - queries)}


def _looks(wish: Wish, measured: Measured, budget: float) -> dict[str, int]:
    """How the monitor looks: some two hundredths of the hours, but at enough images to tell a point from noise."""
    looks = 4
    affordable = int(0.01 * budget / looks * min(measured.teacher_rate, measured.student_rate))
    images = max(64, min(512, affordable // 3))
    labelled = max(FEWEST_LABELLED, min(2000, affordable - images)) if wish.labelled else 0
    return {"looks": looks, "look_images": images, "look_labelled": min(labelled, max(wish.bank, 20))}


__all__ = ["MAX_EPOCHS", "MAX_EPOCHS_STARTED", "MIN_IMAGES", "SMALL_SIDE", "Plan", "plan"]
