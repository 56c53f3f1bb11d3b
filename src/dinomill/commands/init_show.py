"""What `dinomill init` prints: what was seen, what was chosen and why, what to expect."""

from __future__ import annotations

from dinomill.planning.choices import Wish
from dinomill.planning.expectation import expectation
from dinomill.planning.pool import Pool, Spread
from dinomill.planning.recipe import Plan
from dinomill.planning.shape import ALIGNED
from dinomill.printing import open_console, show

_SHOWN = (
    ("image size", "pretraining.crops.global_size"),
    ("crops' area", "pretraining.crops.global_scale"),
    ("channels", "curation.write.channels"),
    ("start", "pretraining.initial"),
    ("model's width", "pretraining.model.embed_dim"),
    ("steps", "pretraining.steps"),
    ("batch", "pretraining.batch_size"),
    ("prototypes", "pretraining.step.head.prototypes"),
    ("student's width", "distillation.students.small.embed_dim"),
    ("student's steps", "distillation.steps"),
    ("compared at", "curation.embedding.embedder.image_size"),
)
_SHOWN_OF_A_GIVEN_TEACHER = (
    ("teacher", "distillation.teacher"),
    ("it sees", "distillation.teacher_size"),
    ("image size", "distillation.crops.global_size"),
    ("crops' area", "distillation.crops.global_scale"),
    ("channels", "curation.write.channels"),
    ("student's width", "distillation.students.small.embed_dim"),
    ("steps", "distillation.steps"),
    ("batch", "distillation.batch_size"),
    ("compared at", "curation.embedding.embedder.image_size"),
)


def print_seen(wish: Wish, pool: Pool, machine: str) -> None:
    """The images, the machine, and what was given beside them."""
    count = max(sum(pool.formats.values()), 1)
    formats = ", ".join(f"{name} {share / count:.0%}" for name, share in list(pool.formats.items())[:4])
    short, long = pool.short_side, pool.long_side
    bits = ", ".join(map(str, pool.bits))
    about = "" if pool.sampled == pool.files else "about "
    things = f"tiles of {wish.tiles.side} × {wish.tiles.side} pixels" if wish.tiles else "files"
    empty = f", {pool.empty / pool.sampled:.0%} show nothing" if pool.empty else ""
    rows = [
        (
            "images",
            f"{pool.files:,} {things}, {pool.bytes / 1e6:,.0f} MB, {about}{pool.images:,} usable{empty}: {formats}",
        ),
        ("", _sides(short, long)),
        (
            "",
            f"{pool.coloured:.0%} show colour, {bits} bits" + (f", {pool.alpha:.0%} transparent" if pool.alpha else ""),
        ),
        ("", _distinct(pool)),
        ("", _alike(pool)),
        ("machine", machine),
    ]
    if wish.seeds:
        rows.append(("seeds", f"{wish.seed_images:,} in {', '.join(wish.seeds)}"))
    if wish.labelled:
        rows.append(("labelled", f"{wish.classes} classes, {wish.bank:,} to learn from, {wish.queries:,} to score"))
    if wish.start:
        start = wish.start
        licence = f", licence {start.licence}" if start.licence else ", licence not stated"
        rows.append(("weights", f"{start.family}, {start.parameters / 1e6:.0f} M, patch {start.patch_size}{licence}"))
    if wish.teacher:
        teacher = wish.teacher
        number = f", {teacher.parameters / 1e6:.1f} M" if teacher.parameters else ""
        licence = f", licence {teacher.licence}" if teacher.licence else ", licence not stated"
        rows.append(("teacher", f"{teacher.family}{number}{licence}"))
    for key, text in rows:
        print(f"{key:<10}{text}")
    print(flush=True)


def print_plan(proposed: Plan) -> None:
    """What was chosen and why, minutes and memory a stage, and what such a run can reach."""
    from rich.table import Table
    from rich.text import Text

    console = open_console(highlight=False)
    table = Table("chosen", "", "why", box=None, pad_edge=False)
    for title, key in _SHOWN if proposed.wish.teacher is None else _SHOWN_OF_A_GIVEN_TEACHER:
        if key in proposed.choices:
            choice = proposed.choices[key]
            table.add_row(title, Text(str(choice.value)), Text(choice.reason))
    show(console, table)
    print()
    prediction = proposed.prediction
    stages = Table(box=None, pad_edge=False)
    for title in ("expected", "images", "minutes", "memory", "disk"):
        stages.add_column(title, justify="left" if title == "expected" else "right")
    for name, stage in prediction.stages.items():
        images = f"{stage.images:,}" if stage.images else ""
        stages.add_row(
            name, images, _minutes(stage.seconds), _gigabytes(stage.memory_bytes), _gigabytes(stage.disk_bytes)
        )
    stages.add_row(
        "whole run",
        "",
        _minutes(prediction.seconds),
        _gigabytes(prediction.memory_bytes),
        _gigabytes(prediction.disk_bytes),
    )
    show(console, stages)
    measured = proposed.measured
    how = "guessed from sizes" if measured.guessed else "measured here"
    first, second = (
        f"{proposed.shape.batch / step:,.0f}" for step in (measured.pretraining_step, measured.distillation_step)
    )
    print(
        (f"\n{second} images/s" if proposed.wish.teacher else f"\n{first} images/s in pretraining, {second}")
        + " in distillation, "
        f"{proposed.machine.cores / measured.embed_seconds:,.0f} through curation's network ({how}).\n"
    )
    for sentence in expectation(proposed):
        console.print(Text(sentence))
    print(flush=True)


def _distinct(pool: Pool) -> str:
    exact = pool.sampled == pool.files
    if not pool.copied:
        return "all of them different pictures" if exact else "no copies among those looked at"
    about = "" if exact else "about "
    if pool.distinct == 1:
        return f"{about}one picture, which the others repeat"
    return f"{about}{pool.distinct:,} different pictures, the others repeat them: the plan is made for these"


def _alike(pool: Pool) -> str:
    what = (
        "the same thing is always at the same place"
        if pool.alignment >= ALIGNED
        else "what they show is at other places in each"
    )
    return (
        f"two of them correlate by {pool.alignment:.2f} place by place: {what}; {pool.sampled} looked at in "
        f"{pool.seconds:.0f} s"
    )


def _sides(short: Spread, long: Spread) -> str:
    if short.smallest == long.largest:
        return f"{short.smallest:,.0f} pixels a side, all of them"
    return f"{short.smallest:,.0f} to {long.largest:,.0f} pixels a side, half of them {short.median:,.0f} or more"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
