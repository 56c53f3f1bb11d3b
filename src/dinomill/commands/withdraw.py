"""`dinomill withdraw`: images whose deletion was asked for leave the next dataset; what they touched is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dinomill.errors import InputError
from dinomill.images.withdrawn import Withdrawal, WithdrawnList
from dinomill.lineage.gather import Gathered
from dinomill.lineage.places import everywhere
from dinomill.lineage.show import tree_below
from dinomill.lineage.thread import Kind, Thing, Thread
from dinomill.lineage.withdrawal import (
    Copy,
    as_rows,
    copies_of,
    images_named,
    still_held,
    to_make_again,
)
from dinomill.storage.hashing import hash_file
from dinomill.storage.lock import held, holder

_REMOVE = "remove their files, and their rows where a table lists them"
_TOUCHED = (Kind.DATASET, Kind.RUN, Kind.NETWORK, Kind.PROBE, Kind.VERSION, Kind.ARCHIVE, Kind.ENDPOINT)


def withdraw(names: Sequence[str], here: Path, *, because: str, copies: bool | None, dry_run: bool) -> None:
    """Put images on the list, and say what they touched.

    Args:
        names: Paths or hashes.
        here: Where they were typed.
        because: Why; kept in the list.
        copies: Whether their near copies go too; None: asked.
        dry_run: Whether only to say what would be.

    Raises:
        InputError: When a name means no image, nothing says whether near copies go too, or curation is running.
    """
    gathered = Gathered(Path.cwd())
    lists = _lists(gathered)
    images = images_named(gathered, names, here)
    found = copies_of(gathered, images)
    same, near = [one for one in found if one.same], [one for one in found if not one.same]
    _say_copies(same, near)
    if near and copies is None and not dry_run:
        copies = _ask(len(near))
    taken = [*same, *(near if copies or (dry_run and copies is None) else [])]
    every = [*images, *(copy.thing for copy in taken)]
    part = gathered.thread.around(every)
    _say_touched(part, every)
    rows = as_rows(gathered, images, taken, datetime.now(UTC).date().isoformat(), because)
    new = 0
    if not dry_run:
        with _no_curation(gathered):
            new = _add(lists, rows)
    _say_what_to_do(gathered, part, every, changed=new if not dry_run else None, lists=lists)


def take_back(names: Sequence[str], here: Path, *, dry_run: bool) -> None:
    """Take images, and what left as their copies, off the list again.

    Raises:
        InputError: When a name is on no list, or curation is running.
    """
    gathered = Gathered(Path.cwd())
    lists = _lists(gathered)
    with _no_curation(gathered):
        gone: dict[str, Withdrawal] = {}
        read = {path: WithdrawnList.read(path) for path in lists}
        for listed, name in ((listed, name) for listed in read.values() for name in names):
            meant = _meant(listed, name, here)
            own = {row.sha256 for row in meant} - {""}
            gone |= {row.key: row for row in (*meant, *(row for row in listed.rows if row.copy_of in own))}
        missing = [name for name in names if not any(_names(row, name, here) for row in gone.values())]
        if missing:
            raise InputError(
                f"{missing[0]} is not withdrawn.",
                found=f"{sum(map(len, read.values()))} images on {_shown(lists)}",
                expected="a path as it stands there, a file, or the beginning of a sha256",
                action="see the list" + ("; nothing was taken back" if len(names) > 1 else ""),
            )
        for path, listed in read.items():
            if not dry_run and any(row.key in gone for row in listed.rows):
                WithdrawnList(row for row in listed.rows if row.key not in gone).write(path)
    for row in gone.values():
        print(f"{'would be taken back' if dry_run else 'taken back'}: {row.key}{' (copy)' if row.copy_of else ''}")
    if not dry_run:
        print(f"\nCommit it: git commit -m 'Take back {len(gone)} withdrawals' -- {_shown(lists)}")
        print("The next curation has them again: make run")


def _meant(listed: WithdrawnList, name: str, here: Path) -> list[Withdrawal]:
    found = [row for row in listed.rows if _names(row, name, here)]
    if len({row.key for row in found}) > 1 and not any(name == row.key for row in found):
        raise InputError(
            f"{name} is the beginning of several hashes.",
            found=", ".join(row.key[:16] for row in found[:10]),
            action="type more of its digits",
        )
    return found


def _names(row: Withdrawal, name: str, here: Path) -> bool:
    if name == row.picture or (len(name) >= 6 and row.sha256.startswith(name.lower())):
        return True
    file = next((path for path in (here / name, Path(name)) if path.is_file()), None)
    return file is not None and row.sha256 == hash_file(file)


def _lists(gathered: Gathered) -> list[Path]:
    """The lists of all environments: a deletion request concerns every one of them.

    Raises:
        InputError: When the configuration names none, or one cannot be read.
    """
    lists = sorted({place.withdrawn for place in gathered.places if place.withdrawn})
    if not lists:
        raise InputError(
            "The configuration names no list of withdrawn images.",
            expected="withdrawn: conf/withdrawn.csv in conf/base/globals.yml, read by `curation.withdrawn`",
            action="add it, with a file that holds the line " + ",".join(Withdrawal._fields),
        )
    for path in lists:
        WithdrawnList.read(path)
    return lists


def _add(lists: Sequence[Path], rows: Sequence[Withdrawal]) -> int:
    """Add rows to every list; how many are new. What stands there already stays as it is."""
    new = 0
    for path in lists:
        listed = WithdrawnList.read(path)
        known = {row.key for row in listed.rows}
        added = [row for row in rows if row.key not in known]
        if added:
            WithdrawnList([*listed.rows, *added]).write(path)
        new = max(new, len(added))
    return new


@contextmanager
def _no_curation(gathered: Gathered) -> Iterator[None]:
    """Change the list only while no curation runs: it read the list when it began, and DVC looks at it at the end.

    Raises:
        InputError: When one runs, or another withdrawal.
    """
    works = [Path(work) for work in everywhere(gathered.places, "work")]
    for work in works:
        if (process := holder(work / "locks" / "curation.lock")) is not None:
            raise InputError(
                "Curation is running, and has read the list of withdrawn images already.",
                found=f"process {process}, in {work}",
                action="wait for its end, or stop it; then run the same command again",
            )
    busy = InputError("Another withdrawal is being written.", action="run the same command again")
    with held((works or [Path("data/work")])[0] / "locks" / "withdrawn.lock", busy):
        yield


def _ask(count: int) -> bool:
    """Whether near copies are withdrawn too, from who sits there.

    Raises:
        InputError: When nobody does.
    """
    if not sys.stdin.isatty():
        raise InputError(
            f"There are {count} near copies, which are named above.",
            expected="--copies, to withdraw them too, or --no-copies, to keep them",
            action="look at them, and run the same command with one of the two",
        )
    return input(f"Withdraw the {count} near copies too? [y/N] ").strip().lower() in ("y", "yes")


def _say_copies(same: Sequence[Copy], near: Sequence[Copy]) -> None:
    for title, copies in (("The same picture in other files, withdrawn with it:", same), ("Near copies:", near)):
        if copies:
            print(title)
            for one in copies:
                print(f"  {one.thing.title}  {one.how.replace('_', ' ')} of {one.of[:12]}  sha256 {one.thing.id[:12]}")
            print()


def _say_touched(part: Thread, images: Sequence[Thing]) -> None:
    counts = {kind: len(part.of_kind(kind)) for kind in _TOUCHED}
    said = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in counts.items() if count)
    print(f"{len(images)} image{'s' * (len(images) != 1)} touched {said or 'nothing that is known here'}:\n")
    for image in images:
        print(f"{image.title}  ({image.id[:12]})")
        for name, value in image.facts.items():
            if name.startswith("dataset ") or name in ("known", "labelled", "withdrawn", "beware"):
                print(f"  {name}: {value}")
        print(tree_below(part, image))


def _say_what_to_do(
    gathered: Gathered, part: Thread, images: Sequence[Thing], *, changed: int | None, lists: Sequence[Path]
) -> None:
    if changed is None:
        print("Nothing was changed (--dry-run).")
    elif changed:
        print(f"{changed} added to {_shown(lists)}: no dataset that is made from now on has them.")
    else:
        print(f"All of them stand on {_shown(lists)} already.")
    steps = list(to_make_again(gathered, part))
    labelled = gathered.labelled.files_of([image.id for image in images])
    if labelled:  # before anything is made again of the rest
        steps.insert(0, (f"labelled images are read where they lie: {', '.join(labelled[:5])}", _REMOVE))
    if changed:
        steps.insert(
            0, ("the list, so that it holds for everybody", f"git commit -m 'Withdraw images' -- {_shown(lists)}")
        )
    for title, some in (("To be done", steps), ("Still held after that", list(still_held(images, part, labelled)))):
        if some:
            print(f"\n{title}:")
            for what, how in some:
                print(f"  {what}\n      {how}")
    if part.missing:
        print("\nNot at hand, so that more may be touched:")
        for one in part.missing:
            print(f"  {one.what}\n      {one.command}")


def _shown(lists: Sequence[Path]) -> str:
    return " ".join(path.as_posix() for path in lists)
