"""A table of labelled images: ``path``, ``label``, ``split``, a row an image, as Parquet or CSV.

Paths are relative to the table's folder, or absolute. Further columns are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dinomill.errors import InputError

COLUMNS = ("path", "label", "split")
SUFFIXES = (".parquet", ".csv")
_NAMED = 5  # wrong rows that a message shows


def is_table(location: str | Path) -> bool:
    """Whether a location is such a table, by its name; a folder may be called so, too."""
    path = Path(location)
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read_split(
    path: Path, split: str, *, classes: tuple[str, ...] | None, limit: int | None
) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Files and the number of each one's class, in the order of classes and paths, and the classes.

    Args:
        path: The table.
        split: Which rows.
        classes: Names that another split defined; None: those of this one.
        limit: At most this many images, evenly from all.

    Raises:
        InputError: When it cannot be read, lacks a column or the split, names files that are not there, or has classes
            that the other split lacks.
    """
    rows = _split(path, _rows(path), split)
    names = classes or tuple(sorted(set(rows["label"])))
    if unknown := sorted(set(rows["label"]) - set(names)):
        raise InputError(
            f"The split {split} of {path} has classes that the other split lacks.",
            found=_some(unknown),
            expected=_some(list(names)),
            action="give both splits the same classes: what was never shown cannot be recognised",
        )
    return _listed(path, rows, names, limit), names


def splits_of(path: Path) -> dict[Path, set[str]]:
    """The splits that each image of a table is in, whether its file is there or not.

    Raises:
        InputError: When it cannot be read, or lacks a column.
    """
    rows = _rows(path)
    found: dict[Path, set[str]] = {}
    for name, split in zip(rows["path"], rows["split"], strict=True):
        found.setdefault(path.parent / name, set()).add(split)
    return found


def _rows(path: Path) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise InputError(
            f"There is no {path}.", expected="a table with path, label, split", action="correct `labelled`"
        )
    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            # As text: a label 007 is no number.
            text = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.string()),
                strings_can_be_null=True,
                null_values=[""],  # a class may be called NA
            )
            table = pyarrow.csv.read_csv(path, convert_options=text)
        names = table.column_names  # decoded here: a file of another encoding shows in them
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a table.",
            found=str(error).splitlines()[0],
            expected="Parquet, or CSV in UTF-8 with commas, with the columns path, label, split",
            action="write it again so",
        ) from None
    if missing := [name for name in COLUMNS if name not in names]:
        if len(names) == 1 and (other := next((sign for sign in ";\t" if sign in names[0]), None)):
            raise InputError(
                f"{path} is not written with commas.",
                found="semicolons between its columns" if other == ";" else "tabs between its columns",
                expected="commas",
                action="export it as CSV with commas, or as Parquet",
            )
        raise InputError(
            f"{path} lacks the column {missing[0]!r}.",
            found=", ".join(names),
            expected=", ".join(COLUMNS),
            action="name its columns so, with commas between in a CSV file",
        )
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise InputError(
            f"{path} has the column {twice[0]!r} {names.count(twice[0])} times.",
            found=", ".join(names),
            expected=", ".join(COLUMNS),
            action="take one of them out, or give it another name",
        )
    columns = {name: table[name].to_pylist() for name in COLUMNS}
    # A CSV file's first line has the names: lines are counted as editors do.
    what, first = ("Row", 1) if path.suffix.lower() == ".parquet" else ("Line", 2)
    for row, values in enumerate(zip(*columns.values(), strict=True), start=first):
        if any(value is None or value == "" for value in values):
            named = ", ".join(f"{name} {value or '(empty)'}" for name, value in zip(COLUMNS, values, strict=True))
            raise InputError(f"{what} {row} of {path} is not whole.", found=named, action="fill it in, or take it out")
    return {name: [str(value) for value in values] for name, values in columns.items()}


def _split(path: Path, rows: dict[str, list[Any]], split: str) -> dict[str, list[str]]:
    kept = [index for index, name in enumerate(rows["split"]) if name == split]
    if not kept:
        present = sorted(set(rows["split"]))
        raise InputError(
            f"{path} has no image of the split {split}.",
            found=f"splits there: {_some(present)}" if present else "a table without rows",
            action="name the splits `train` and `test`, or set `bank_split` and `query_split`"
            if present
            else "write a row for each image",
        )
    return {name: [rows[name][index] for index in kept] for name in ("path", "label")}


def _listed(
    path: Path, rows: dict[str, list[str]], classes: tuple[str, ...], limit: int | None
) -> list[tuple[Path, int]]:
    """In the order of classes and paths, as folders are listed."""
    labels: dict[str, str] = {}
    for name, label in zip(rows["path"], rows["label"], strict=True):
        if labels.setdefault(name, label) != label:
            raise InputError(
                f"{path} gives an image two labels in one split.",
                found=f"{name}: {labels[name]} and {label}",
                expected="a row an image",
                action="take one of the two out",
            )
    number = {name: index for index, name in enumerate(classes)}
    found = sorted((number[label], path.parent / name) for name, label in zip(*rows.values(), strict=True))
    if lost := [str(file) for _, file in found if not file.is_file()]:
        raise InputError(
            f"{len(lost)} of {len(found)} images that {path} names are not there.",
            found=_some(lost),
            expected=f"paths relative to {path.parent}, or absolute ones",
            action="correct the paths, or copy the images",
        )
    if limit is not None and limit < len(found):
        found = [found[index] for index in np.linspace(0, len(found) - 1, limit).round().astype(int)]
    return [(file, label) for label, file in found]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
