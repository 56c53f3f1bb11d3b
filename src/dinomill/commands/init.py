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
from dinomill.planning.choices import Size, Wish, in_words
from dinomill.planning.environment_files import Change, changes, is_finished, only_missing, require_room, write
from dinomill.planning.machine import survey as survey_machine
from dinomill.planning.pool import Pool
from dinomill.planning.pool import survey as survey_pool
from dinomill.planning.prediction import PLAN_NAME
from dinomill.planning.recipe import Plan, plan
from dinomill.printing import open_console
from dinomill.storage.lock import held


def init(
    name: str,
    *,
    pool: Sequence[str],
    seeds: Sequence[str] = (),
    labelled: str | None = None,
    start: str | None = None,
    teacher: str | None = None,
    licence: str | None = None,
    hours: float = 1.0,
    size: Size | None = None,
    tiles: int | None = None,
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
        teacher: Address of a network to distil from as it is; nothing is pretrained then.
        licence: Theirs, where nothing beside them says it.
        hours: For the whole run.
        size: Of the model.
        tiles: Side of the tiles that the pool's images are cut into, pixels.
        force: Replace what is there.
        probe: Measure; else rates are guessed.
        root: The project.

    Returns:
        The exit code: 1 when what is there differs and was left as it is.

    Raises:
        DinomillError: When an input cannot be used.
    """
    environment.check_name(name)
    busy = InputError(f"Another `dinomill init {name}` is at work.", action="wait for its end, or choose another name")
    lock = root / "data" / "work" / "locks" / f"init-{name}.lock"
    with held(lock, busy):
        code = _plan_and_write(
            name,
            pool,
            seeds,
            labelled,
            start,
            teacher=teacher,
            licence=licence,
            hours=hours,
            size=size,
            tiles=tiles,
            force=force,
            probe=probe,
            root=root,
        )
        lock.unlink(missing_ok=True)
    return code


def _plan_and_write(
    name: str,
    pool: Sequence[str],
    seeds: Sequence[str],
    labelled: str | None,
    start: str | None,
    *,
    teacher: str | None,
    licence: str | None,
    hours: float,
    size: Size | None,
    tiles: int | None,
    force: bool,
    probe: bool,
    root: Path,
) -> int:
    require_room(name, root)
    wish = make_wish(name, pool, seeds, labelled, start, hours, size, root, tiles, licence, teacher)
    machine = survey_machine(root)
    seen = _look(wish, machine.cores)
    print_seen(wish, seen, str(machine))
    proposed = plan(wish, seen, machine)
    if probe:
        from dinomill.planning.probe import expected_seconds
        from dinomill.planning.probe import probe as measure

        takes = in_words(expected_seconds(proposed) / 3600)
        print(f"Trying it on this machine, which takes about {takes} (--no-probe guesses instead).\n", flush=True)
        proposed = plan(wish, seen, machine, measure(proposed, root))
    print_plan(proposed)
    return _write(proposed, force=force, root=root)


def _look(wish: Wish, cores: int) -> Pool:
    try:
        return survey_pool(
            wish.pool, tiles=wish.cut, workers=max(cores, 8 if any("://" in place for place in wish.pool) else 1)
        )
    except InputError as error:
        raise InputError(
            error.problem,
            found=error.found,
            expected=error.expected,
            action="correct --pool: name the place of the images",
        ) from None


def _write(proposed: Plan, *, force: bool, root: Path) -> int:
    """Write what was decided, or show how it differs from what is there; 1 where it differs and nothing was written."""
    name = proposed.wish.name
    files = environment.render(proposed, command())
    folder = environment.CONF / name
    existed = any(path.is_file() for path in (root / folder).rglob("*"))
    found = changes(files, root)
    if existed and not found and is_finished(files, root):
        print(f"{folder} is already so: nothing was written.")
        return _next(name)
    unfinished = existed and only_missing(found, files, root)
    if existed and found and not force and not unfinished:
        return _show(found, folder)
    write(files, proposed.prediction, root)
    for change in found:
        if change.by_hand:
            print(f"replaced what was edited by hand: {change.path}")
    if unfinished:
        print(f"{folder} was begun and not finished: what was missing has been added.")
    print(f"Written: {folder}, {len(files)} files with the reason beside each value, and {PLAN_NAME}, what to expect.")
    return _next(name)


def _show(found: Sequence[Change], folder: Path) -> int:
    for change in found:
        print(change.diff.encode("utf-8", "backslashreplace").decode("utf-8"))
    edited = [str(change.path) for change in found if change.by_hand]
    if edited:
        print(f"Edited by hand since, or not made by this command: {', '.join(edited)}.")
    print(f"Nothing was written: {folder} is there. With --force it becomes as shown above.")
    return 1


def _next(name: str) -> int:
    """Ask of the environment what is asked before every run; 1 when it would be refused."""
    from dinomill.commands.ahead import look_ahead, show_problems
    from dinomill.layers import Layers
    from dinomill.stages import STAGES, given_teacher

    given = given_teacher(Layers(name).parameters)
    unused = ("sample",) if given is None else ("sample", "pretraining")
    ahead = look_ahead(name, {stage: stage not in unused for stage in STAGES})
    # What to put right is a part of the answer here, so it goes where the rest is printed.
    show_problems(ahead, open_console(soft_wrap=True))
    if ahead.stopping:
        print(f"\nPut that right, then:  dinomill plan --env {name}    asks again")
        return 1
    print(f"\nNext:  make run ENV={name}\n       dinomill plan --env {name}    shows the stages first")
    print(f"       git add conf/{name}    before a run, and again after it: dvc.yaml and dvc.lock lie there too")
    return 0


def command() -> str:
    """What was typed, for the file's first line."""
    words = sys.argv[1:] if Path(sys.argv[0]).name == "dinomill" else ["init", "…"]
    return shlex.join(["dinomill", *(word for word in words if word != "--force")])
