"""`dinomill init`: looks at images, machine and time, tries what it proposes, and writes one complete environment."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dinomill.commands.init_show import print_plan, print_seen
from dinomill.commands.init_wish import make_wish
from dinomill.errors import InputError
from dinomill.planning import environment
from dinomill.planning.choices import Size, Wish
from dinomill.planning.machine import survey as survey_machine
from dinomill.planning.pool import Pool
from dinomill.planning.pool import survey as survey_pool
from dinomill.planning.recipe import Plan, plan


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
    print_seen(wish, seen, str(machine))
    proposed = plan(wish, seen, machine)
    if probe:
        from dinomill.planning.probe import probe as measure

        proposed = plan(wish, seen, machine, measure(proposed, root))
    print_plan(proposed)
    return _write(proposed, force=force, root=root)


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
