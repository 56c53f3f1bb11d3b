"""`dinomill init`: looks at images, machine and time, tries what it proposes, and writes one complete environment."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from dinomill.errors import ConfigError, InputError
from dinomill.planning import environment
from dinomill.planning.choices import Size, Start, Wish
from dinomill.planning.expectation import expectation
from dinomill.planning.machine import survey as survey_machine
from dinomill.planning.pool import Pool
from dinomill.planning.pool import survey as survey_pool
from dinomill.planning.recipe import Plan, plan

_SHOWN = (
    ("images", "pretraining.crops.global_size"),
    ("crops", "pretraining.crops.global_scale"),
    ("channels", "curation.write.channels"),
    ("start", "pretraining.initial"),
    ("model", "pretraining.model.embed_dim"),
    ("steps", "pretraining.steps"),
    ("batch", "pretraining.batch_size"),
    ("prototypes", "pretraining.step.head.prototypes"),
    ("student", "distillation.students.small.embed_dim"),
    ("student's steps", "distillation.steps"),
    ("embedder", "curation.embedding.embedder.image_size"),
)


def init(
    name: str,
    *,
    pool: Sequence[str],
    seeds: Sequence[str] = (),
    labelled: str | None = None,
    start: str | None = None,
    hours: float = 1.0,
    size: Size | None = None,
    force: bool = False,
    probe: bool = True,
    root: Path = Path(),
) -> int:
    """Plan and write an environment.

    Args:
        name: Of the environment.
        pool: Where the images lie.
        seeds: ``name=place`` each.
        labelled: ``<split>/<class>/<image>``.
        start: Address of weights.
        hours: For the whole run.
        size: Of the model.
        force: Replace what is there.
        probe: Measure; else rates are guessed.
        root: The project.

    Returns:
        The exit code.

    Raises:
        DinomillError: When an input cannot be used.
    """
    environment.check_name(name)
    wish = make_wish(name, pool, seeds, labelled, start, hours, size, root)
    machine = survey_machine(root)
    seen = _look(wish, machine.cores)
    _print_seen(wish, seen, str(machine))
    proposed = plan(wish, seen, machine)
    if probe:
        from dinomill.planning.probe import probe as measure

        proposed = plan(wish, seen, machine, measure(proposed, root))
    _print_plan(proposed)
    return _write(proposed, force=force, root=root)


def make_wish(
    name: str,
    pool: Sequence[str],
    seeds: Sequence[str],
    labelled: str | None,
    start: str | None,
    hours: float,
    size: Size | None,
    root: Path,
) -> Wish:
    """What was typed, checked and with everything counted.

    Raises:
        InputError: When a place is missing or not laid out as it must be.
        ConfigError: When an option is not in its range.
    """
    if hours <= 0:
        raise ConfigError("--hours must be above 0.", found=f"{hours:g}", action="0.5 is half an hour")
    places = [_place(location, root, "--pool") for location in pool]
    if repeated := sorted({place for place in places if places.count(place) > 1}):
        raise InputError("--pool names a place twice.", found=", ".join(repeated), action="name each place once")
    sets = _seeds(seeds, root)
    splits: dict[str, int] = {}
    if labelled is not None:
        labelled = _place(labelled, root, "--labelled")
        splits = count_labelled(labelled)
    return Wish(
        name=name,
        pool=tuple(places),
        seeds=sets,
        seed_images=sum(_count(place, f"the seeds {set_name!r}") for set_name, place in sets.items()),
        labelled=labelled,
        **splits,
        hours=hours,
        size=size,
        start=None if start is None else read_start(start),
    )


def from_here(text: str, here: Path) -> str:
    """A path typed in a sub-folder of the project, ``name=path`` too, as seen from the project's root."""
    name, sign, place = text.rpartition("=") if "=" in text and not (here / text).exists() else ("", "", text)
    if "://" in place or ":/" in place or not (here / place).exists():
        return text
    return f"{name}{sign}{here / place}"


def known_size(size: str | None) -> Size | None:
    """The size that was asked for.

    Raises:
        ConfigError: When there is none of that name.
    """
    sizes: tuple[Size, ...] = get_args(Size)
    for known in sizes:
        if size is not None and size.lower() == known.lower():
            return known
    if size is not None:
        raise ConfigError(f"There is no size {size!r}.", expected=", ".join(sizes), action="or leave --size out")
    return None


def _place(location: str, root: Path, option: str) -> str:
    """A location as it goes into the configuration: relative to the project where it lies in it."""
    if "://" in location:
        if not location.startswith("s3://"):
            raise InputError(
                f"{option} {location} is no place that can be read.", expected="a path, or s3://bucket/prefix"
            )
        return location
    path = Path(location)
    if not path.exists():
        raise InputError(
            f"There is no {location}.",
            expected=f"{option}: a folder of images, a .tar, a .parquet or .csv manifest, or s3://bucket/prefix",
            action=_nearest(path),
        )
    full = Path(os.path.abspath(path))  # noqa: PTH100 (a link stays what the user named)
    base = Path(os.path.abspath(root))  # noqa: PTH100
    return full.relative_to(base).as_posix() if full.is_relative_to(base) else full.as_posix()


def _nearest(path: Path) -> str:
    """What there is instead."""
    above = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    names = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and not entry.name.startswith("."))[:6]
    return f"correct the path; in {above} there are the folders {', '.join(names)}" if names else "correct the path"


def _seeds(seeds: Sequence[str], root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in seeds:
        name, sign, place = text.partition("=")
        if not sign or not name or not place:
            raise InputError(
                "--seeds needs a name and a place.",
                found=text,
                expected="name=place: each set of examples has a name, which manifest and report use",
                action=f"--seeds examples={text.strip('=')}",
            )
        if not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"{name!r} cannot be the name of a set of seeds.", expected="letters, digits, - and _")
        if name in found:
            raise InputError(f"--seeds names {name!r} twice.", action="give each set a name of its own")
        found[name] = _place(place, root, "--seeds")
    return found


def _count(place: str, what: str) -> int:
    from dinomill.curation.sources import list_items

    count = len(list_items(place))
    if count == 0:
        raise InputError(f"{place} holds no file for {what}.", action="name a folder with good examples in it")
    return count


def count_labelled(place: str) -> dict[str, int]:
    """Images of both splits, and classes.

    Raises:
        InputError: When it is not laid out so that evaluation can use it.
    """
    from dinomill.images.labelled import find_labelled

    if "://" in place or not Path(place).is_dir():
        raise InputError(
            f"--labelled {place} is no folder of this machine.",
            expected="<split>/<class>/<image>, splits train and test",
        )
    layout = "set --labelled to a folder with train/<class>/<image> and test/<class>/<image>, or leave it out"
    try:
        bank = find_labelled(Path(place), "train")
        queries = find_labelled(Path(place), "test", classes=bank.classes)
    except InputError as error:
        raise InputError(error.problem, found=error.found, expected=error.expected, action=layout) from None
    if len(bank.classes) < 2:
        raise InputError(
            f"{place}/train has one class only.", found=", ".join(bank.classes), expected="two or more", action=layout
        )
    return {"bank": len(bank), "queries": len(queries), "classes": len(bank.classes)}


def read_start(address: str) -> Start:
    """What a plan needs to know of weights.

    Raises:
        DinomillError: When they cannot be used; ``features`` says what they are.
    """
    from dinomill import features

    description: Any = features.describe(address)
    if description.model is None:
        raise InputError(
            f"{address} is no vision transformer: it can be a teacher or an embedder, but nothing to continue from.",
            found=f"{description.family}",
            action="start from ViT weights: `dinomill weights` lists what is known",
        )
    model = description.model
    return Start(
        address=address,
        family=description.family,
        image_size=model.image_size,
        patch_size=model.patch_size,
        in_channels=model.in_channels,
        embed_dim=model.embed_dim,
        depth=model.depth,
        parameters=description.parameters,
        licence=description.licence,
    )


def _look(wish: Wish, cores: int) -> Pool:
    try:
        return survey_pool(wish.pool, workers=max(cores, 8 if any("://" in place for place in wish.pool) else 1))
    except InputError as error:
        raise InputError(
            error.problem,
            found=error.found,
            expected=error.expected,
            action="correct --pool: name the place of the images",
        ) from None


def _print_seen(wish: Wish, pool: Pool, machine: str) -> None:
    count = max(sum(pool.formats.values()), 1)
    formats = ", ".join(f"{name} {share / count:.0%}" for name, share in list(pool.formats.items())[:4])
    short, long = pool.short_side, pool.long_side
    bits = ", ".join(map(str, pool.bits))
    about = "" if pool.sampled == pool.files else "about "
    rows = [
        ("images", f"{pool.files:,} files, {pool.bytes / 1e6:,.0f} MB, {about}{pool.images:,} usable: {formats}"),
        ("", f"{short.smallest:.0f} to {long.largest:,.0f} pixels a side, half of them {short.median:.0f} or more"),
        (
            "",
            f"{pool.coloured:.0%} show colour, {bits} bits" + (f", {pool.alpha:.0%} transparent" if pool.alpha else ""),
        ),
        ("", f"alike by {pool.alignment:.2f} place by place; {pool.sampled} looked at in {pool.seconds:.0f} s"),
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
    for key, text in rows:
        print(f"{key:<10}{text}")
    print(flush=True)


def _print_plan(proposed: Plan) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table("chosen", "", "why", box=None, pad_edge=False)
    for title, key in _SHOWN:
        if key in proposed.choices:
            choice = proposed.choices[key]
            table.add_row(title, Text(str(choice.value)), Text(choice.reason))
    console.print(table)
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
    console.print(stages)
    measured = proposed.measured
    how = "guessed from sizes" if measured.guessed else "measured here"
    print(
        f"\n{proposed.shape.batch / measured.pretraining_step:,.0f} images/s in pretraining, "
        f"{proposed.shape.batch / measured.distillation_step:,.0f} in distillation, "
        f"{proposed.machine.cores / measured.embed_seconds:,.0f} through curation's network ({how}).\n"
    )
    for sentence in expectation(proposed):
        console.print(Text(sentence))
    print(flush=True)


def _write(proposed: Plan, *, force: bool, root: Path) -> int:
    name = proposed.wish.name
    files = environment.render(proposed, command())
    folder = environment.CONF / name
    existed = (root / folder).is_dir() and any((root / folder).iterdir())
    found = environment.changes(files, root)
    if existed and not found:
        print(f"{folder} is already so: nothing was written.")
        return _next(name)
    if existed and not force:
        for change in found:
            print(change.diff)
        edited = [str(change.path) for change in found if change.by_hand]
        if edited:
            print(f"Edited by hand since, or not made by this command: {', '.join(edited)}.")
        print(f"Nothing was written: {folder} is there. With --force it becomes as shown above.")
        return 0
    environment.write(files, proposed.prediction, root)
    for change in found:
        if change.by_hand:
            print(f"replaced what was edited by hand: {change.path}")
    print(f"Written: {folder}, {len(files)} files, with the reason beside each value.")
    return _next(name)


def _next(name: str) -> int:
    print(f"\nNext:  make run ENV={name}\n       dinomill plan --env {name}    shows the stages first")
    return 0


def command() -> str:
    """What was typed, for the file's first line."""
    words = sys.argv[1:] if Path(sys.argv[0]).name == "dinomill" else ["init", "…"]
    return shlex.join(["dinomill", *(word for word in words if word != "--force")])


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 0.1 * 2**30 else f"{count / 2**20:.0f} MB"
