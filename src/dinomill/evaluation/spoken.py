"""Messages about a labelled set for somebody who has no project: what to do names options of `dinomill evaluate`."""

from __future__ import annotations

import re
from pathlib import Path

from dinomill.errors import DinomillError, InputError
from dinomill.evaluation.sets.config import TASKS, Kind, SetConfig

# What a configuration calls so, in actions; the first that fits ends it where it says all.
_OPTIONS = (
    (r"correct `labelled`|correct the set's folder or the name of its split", "correct --on, or --bank-split and "
     "--query-split"),
    (r"`bank_split` and `query_split`", "--bank-split and --query-split"),
    (r"correct `ignored` of the set \S+", "give others with --set ignored=[…]"),
    (r"the id to `ignored`", "the id to --set ignored=[…]"),
    (r"correct `(\w+)` or `(\w+)` of the set", r"correct --set \1=… or --set \2=…"),
    (r"correct `(\w+)` of the set \S+", r"correct --set \1=…"),
    (r", or the value given with --params", ""),
    (r"`evaluation\.precision: (\w+)`", r"--precision \1"),
)  # fmt: skip
_SPLITS = "give --on another folder, or name its splits with --bank-split and --query-split"
# Columns that a table of a kind has.
_COLUMNS: dict[Kind, set[str]] = {"classes": {"path", "label", "split"}, "list": {"path", "instance", "role"}}
_FOLDERS: dict[str, Kind] = {"masks": "masks", "annotations": "masks", "depth": "depth"}


def require_there(on: str) -> None:
    """Refuse a labelled set that is not on this machine.

    Raises:
        InputError: When nothing is there.
    """
    if "://" in on:
        raise InputError(
            f"The labelled images {on} are not in a folder of this machine.",
            action="copy them (`aws s3 cp --recursive`), and give --on the folder",
        )
    if not Path(on).exists():
        raise InputError(
            f"There is no {on}.",
            expected="a folder of labelled images, or a table (.csv, .parquet)",
            action="correct --on",
        )


def spoken(error: DinomillError, labelled: SetConfig) -> DinomillError:
    """The same message, where what to do names options instead of keys of a configuration.

    Args:
        error: What was raised when the set was read, or measured.
        labelled: What was asked for.
    """
    action = error.action or ""
    fitting = [kind for kind in _kinds_of(Path(labelled.labelled)) if kind != labelled.kind]
    if "cannot be measured on" in error.problem and "kind" in action:
        tasks = [task for task, kind in TASKS.items() if kind in (error.expected or "").split(" or ")]
        action = f"leave --protocol {error.problem.split()[0]} out, or give --task {' or --task '.join(tasks)}"
    elif fitting and _is_of_layout(error):
        action = "give --task " + " or --task ".join(task for task, kind in TASKS.items() if kind in fitting)
    elif action.startswith("put more labelled images there"):
        action = "put more labelled images there"
    elif "globals.yml" in action or "or set `bank_split`" in action:
        action = _SPLITS
        if "no labelled split" in error.problem:
            action += "; if these are the classes, move some of each to train/<class>, the others to test/<class>"
    for pattern, option in _OPTIONS:
        action = re.sub(pattern, option, action)
    return type(error)(error.problem, found=error.found, expected=error.expected, action=action or None)


def _is_of_layout(error: DinomillError) -> bool:
    """Whether an error speaks of what lies there, not of a value within: another task may be meant."""
    said = ("no labelled split", "There are no files in", "There is no", "lacks the column", "is no folder")
    return any(one in error.problem for one in said)


def _kinds_of(place: Path) -> list[Kind]:
    """What a set seems to be made for, by its columns or folders; nothing where nothing speaks for a kind."""
    if place.is_file():
        columns = _columns(place)
        return [kind for kind, wanted in _COLUMNS.items() if wanted <= columns]
    if (place / "images").is_dir():
        return list(dict.fromkeys(kind for folder, kind in _FOLDERS.items() if (place / folder).is_dir()))
    splits = [place / name for name in ("train", "test")]
    return ["classes"] if all(any(one.glob("*/")) for one in splits) else []


def _columns(table: Path) -> set[str]:
    if table.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return set(pq.read_schema(table).names)
        except (pa.ArrowException, OSError):
            return set()
    with table.open("rb") as file:
        first = file.readline(4096).decode("utf-8-sig", errors="replace")
    return {name.strip().strip('"') for name in first.split(",")}
