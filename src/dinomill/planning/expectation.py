"""What a run of this size can be expected to reach, in words that nobody is disappointed by afterwards."""

from __future__ import annotations

from dinomill.images.pixels import kinds_in_words
from dinomill.planning.choices import in_words
from dinomill.planning.recipe import Plan

# Below so many views of so many images nothing that is published was learnt from nothing.
_FEW_VIEWS = 50_000_000
_FEW_IMAGES = 500_000
_FEW_QUERIES = 200
_FEW_STUDENT_VIEWS = 500_000  # images that a student sees, below which it stays far behind its teacher


def expectation(plan: Plan) -> list[str]:
    """Some sentences, the most important first."""
    wish, shape = plan.wish, plan.shape
    views = plan.steps.pretraining * shape.batch
    what = f"{plan.pool.distinct:,} images and {in_words(wish.hours)} on {_on(plan)}"
    found = []
    if wish.start is not None:
        found.append(
            f"{what} adapt the weights to your images, they do not make new ones: expect a few points where they "
            "differ from what the weights have seen, and none elsewhere. Evaluation shows the starting weights "
            "as a row of their own."
        )
        seen = plan.steps.distillation * shape.batch
        if seen < _FEW_STUDENT_VIEWS:
            found.append(
                f"The student will be weak: it starts from nothing and sees {seen:,} images. The adapted weights "
                "themselves are what is registered and packaged; the student is measured beside them."
            )
    elif wish.teacher is not None:
        seen = plan.steps.distillation * shape.batch
        found.append(
            f"{what} teach the student what {wish.teacher.address} sees in them: {seen:,} images will be seen. Expect "
            "it below its teacher; whether it is above raw pixels, evaluation says: on images of many kinds some "
            "hundred steps were not always enough (docs/distillation.md)."
        )
    elif views < _FEW_VIEWS or plan.pool.distinct < _FEW_IMAGES:
        found.append(
            f"{what} are too little to learn from nothing: the model will see {views:,} images, published ones saw a "
            "hundred million and more. Expect it well above a random network, and about at the level of raw pixels "
            "where images are aligned. To have good features, start from released weights (--from WEIGHTS): they are "
            "adapted and distilled."
        )
    else:
        found.append(f"{what}: {views:,} images will be seen, a size at which features are learnt from nothing.")
    takes, asked = in_words(plan.prediction.seconds / 3600), in_words(wish.hours)
    if plan.prediction.seconds > 1.1 * 3600 * wish.hours and takes != asked:
        found.append(
            f"It will take {takes} rather than the {asked} asked for: the stages beside training need most of them."
        )
    elif plan.prediction.seconds < 0.7 * 3600 * wish.hours:
        found.append("The hours are not used up: seeing so few images still more often would teach them by heart.")
    if not wish.labelled:
        found.append("Without labelled images nothing can be measured; the monitor watches for a collapse alone.")
    elif wish.queries < _FEW_QUERIES:
        found.append(
            f"{wish.queries} labelled images to score tell differences of some {_telling(wish.queries):.0f} points "
            "from chance: with some hundreds the gate would mean more."
        )
    if not wish.seeds:
        found.append("Without seeds nothing counts as irrelevant: curation takes out copies and broken files.")
    return found + list(wish.notes) + warnings(plan)


def _telling(queries: int) -> float:
    """Points of accuracy that two models, right on three of four images, must differ by: 95%, seen in pairs."""
    return float(196 * (0.2 / queries) ** 0.5)  # a fifth of the images tell the two apart


def warnings(plan: Plan) -> list[str]:
    """What is likely to go wrong."""
    pool, machine, prediction = plan.pool, plan.machine, plan.prediction
    found = []
    if plan.measured.busy:
        found.append(
            "Other work kept this machine busy while it was measured: what is expected holds for when it is idle, and "
            "is less certain. Run the same command again then, with --force."
        )
    if prediction.memory_bytes > 0.85 * machine.memory_bytes:
        found.append(
            f"Memory: {prediction.memory_bytes / 1e9:.1f} GB of {machine.memory_bytes / 1e9:.1f} GB would be used; "
            "a smaller --size is safer."
        )
    if prediction.disk_bytes > 0.8 * machine.disk_free_bytes:
        found.append(
            f"Disk: {prediction.disk_bytes / 1e9:.1f} GB would be written, "
            f"{machine.disk_free_bytes / 1e9:.1f} GB are free."
        )
    deep = sum(count for bits, count in pool.bits.items() if bits > 8) / max(sum(pool.bits.values()), 1)
    if pool.unlike_kinds:
        found.append(
            f"The images are of several kinds: {kinds_in_words(pool.unlike_kinds)}. No one black and white suits them "
            "all; convert them to one kind, or give each an environment of its own."
        )
    elif deep > 0.05 and pool.contrast < 0.02 and pool.value_range is None:
        found.append(
            f"{deep:.0%} of the images have more than 8 bits and look almost black (contrast {pool.contrast:.3f}): "
            "curation.scan.preflight.value_range says which values are black and white."
        )
    if pool.unreadable_share > 0.1:
        reasons = ", ".join(f"{count} {reason}" for reason, count in pool.unreadable.items())
        found.append(f"{pool.unreadable_share:.0%} of the files looked at cannot be used: {reasons}.")
    return found


def _on(plan: Plan) -> str:
    gpus = len(plan.machine.gpus)
    if gpus:
        return f"{gpus} GPU{'s' if gpus > 1 else ''}"
    return {1: "one core", 2: "two cores"}.get(plan.machine.cores, f"{plan.machine.cores} cores")
