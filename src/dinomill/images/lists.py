"""Lists of queries and of the gallery that they are looked up in: CSV with the columns path, instance, role.

    path,instance,role
    queries/radcliffe_1.jpg,radcliffe,query
    gallery/0001.jpg,radcliffe,easy        shows it
    gallery/0002.jpg,radcliffe,hard        shows it, from afar or half hidden
    gallery/0003.jpg,radcliffe,junk        shows it hardly: neither right nor wrong
    gallery/0004.jpg,,gallery              shows none of them

``gallery`` with an instance means ``easy``; ``both`` is a query that lies in the gallery, too, and never counts for
itself. A gallery's image may stand in several lines, for several instances. Queries may have a box, in the columns
left, top, right, bottom (pixels): only what it holds is looked up.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinomill.errors import InputError

COLUMNS = ("path", "instance", "role")
BOX = ("left", "top", "right", "bottom")
ROLES = ("query", "gallery", "both", "easy", "hard", "junk")
# How a gallery's image stands to a query.
NOTHING, EASY, HARD, JUNK = 0, 1, 2, 3
_RELATIONS = {"gallery": EASY, "both": EASY, "easy": EASY, "hard": HARD, "junk": JUNK}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class RetrievalList:
    """What is looked up, where, and what is right."""

    queries: tuple[Path, ...]
    boxes: tuple[Box | None, ...]  # of each query: left, top, right, bottom
    gallery: tuple[Path, ...]
    relations: npt.NDArray[np.int8]  # [Q, G]: NOTHING, EASY, HARD or JUNK


def read_list(path: Path, root: Path | None = None) -> RetrievalList:
    """Read a list; its order is kept.

    Args:
        path: The CSV file.
        root: What its paths are relative to; None: its own folder.

    Raises:
        InputError: With file and line: a column or image is missing, a role is unknown, a query has nothing to find.
    """
    root = path.parent if root is None else root
    rows = _read_rows(path)
    queries: list[tuple[Path, str, Box | None]] = []
    gallery: dict[Path, int] = {}
    shows: list[tuple[int, str, int]] = []
    for line, row in rows:
        file = root / row["path"]
        _check_row(path, line, row, file)
        if row["role"] in ("query", "both"):
            queries.append((file, row["instance"], _box(path, line, row)))
        if row["role"] != "query":
            place = gallery.setdefault(file, len(gallery))
            if row["instance"]:
                shows.append((place, row["instance"], _RELATIONS[row["role"]]))
    relations = _relations(queries, gallery, shows)
    _check_found(path, queries, relations)
    return RetrievalList(tuple(q for q, _, _ in queries), tuple(b for _, _, b in queries), tuple(gallery), relations)


def labelled_list(
    queries: Sequence[Path], query_labels: npt.NDArray[np.int64], gallery: Sequence[Path], labels: npt.NDArray[np.int64]
) -> RetrievalList:
    """The list of a set with classes: an image of the gallery is right when it is of the query's class."""
    relations = (query_labels[:, None] == labels[None, :]).astype(np.int8)
    return RetrievalList(tuple(queries), (None,) * len(queries), tuple(gallery), relations)


def _relations(
    queries: Sequence[tuple[Path, str, Box | None]], gallery: Mapping[Path, int], shows: Sequence[tuple[int, str, int]]
) -> npt.NDArray[np.int8]:
    of_instance: dict[str, list[tuple[int, int]]] = {}
    for place, instance, relation in shows:
        of_instance.setdefault(instance, []).append((place, relation))
    relations = np.zeros((len(queries), len(gallery)), dtype=np.int8)
    for row, (file, instance, _) in enumerate(queries):
        for place, relation in of_instance.get(instance, []):
            relations[row, place] = relation
        if file in gallery:
            relations[row, gallery[file]] = JUNK
    return relations


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise InputError(
            f"There is no list {path}.",
            found="a folder" if path.is_dir() else None,
            expected="a CSV file with the columns path, instance, role",
            action="correct `labelled`",
        )
    try:
        return _parsed(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a table.",
            found=str(error),
            expected="a CSV file in UTF-8 with the columns path, instance, role",
            action="save it as CSV, in UTF-8",
        ) from None


def _parsed(path: Path) -> list[tuple[int, dict[str, str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = tuple(reader.fieldnames or ())
        if missing := [name for name in COLUMNS if name not in columns]:
            raise InputError(
                f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}.",
                found=", ".join(columns) or "an empty file",
                expected="path, instance, role (of queries also left, top, right, bottom)",
                action="name its columns so, in the first line, with commas between",
            )
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise InputError(
                f"{path} has the column {twice[0]!r} {columns.count(twice[0])} times.",
                found=", ".join(columns),
                action="take one of them out, or give it another name",
            )
        return [
            (reader.line_num, {name: (value or "").strip() for name, value in row.items() if name}) for row in reader
        ]


def _check_row(path: Path, line: int, row: Mapping[str, str], file: Path) -> None:
    if row["role"] not in ROLES:
        raise InputError(
            f"{path}, line {line}: the role is unknown.",
            found=row["role"] or "nothing",
            expected=", ".join(ROLES),
            action="correct that line",
        )
    if row["role"] != "gallery" and not row["instance"]:
        raise InputError(
            f"{path}, line {line}: {row['path']} has the role {row['role']} and no instance.",
            expected="the name of what it shows",
            action="fill it in, or give the role gallery to what shows none",
        )
    if not row["path"] or not file.is_file():
        raise InputError(
            f"{path}, line {line}: the image is not there.",
            found=f"no file {file}",
            action="correct the path, which is relative to the list's folder",
        )


def _box(path: Path, line: int, row: Mapping[str, str]) -> Box | None:
    told = [row.get(name, "") for name in BOX]
    if not any(told):
        return None
    try:
        left, top, right, bottom = (round(float(value)) for value in told)
    except ValueError:
        left, top, right, bottom = 0, 0, 0, 0
    if not (0 <= left < right and 0 <= top < bottom):
        raise InputError(
            f"{path}, line {line}: the box is none.",
            found=", ".join(f"{name} {value or 'nothing'}" for name, value in zip(BOX, told, strict=True)),
            expected="four numbers of pixels: left < right, top < bottom",
            action="correct that line, or leave all four empty",
        )
    return left, top, right, bottom


def _check_found(path: Path, queries: Sequence[tuple[Path, str, Box | None]], relations: npt.NDArray[np.int8]) -> None:
    if not queries or not relations.shape[1]:
        raise InputError(
            f"{path} has nothing to look up.",
            found=f"{len(queries)} queries, {relations.shape[1]} images in the gallery",
            expected="both",
            action="give lines the roles query and gallery (or easy, hard)",
        )
    lonely = np.flatnonzero(~np.isin(relations, (EASY, HARD)).any(axis=1))
    if len(lonely):
        file, instance, _ = queries[int(lonely[0])]
        raise InputError(
            f"{path}: {len(lonely)} of {len(queries)} queries have nothing to find.",
            found=f"no image of {instance} in the gallery, which {file.name} asks for",
            expected="at least one line of the role gallery, easy or hard for each instance",
            action="add what shows it to the gallery, or take those queries out",
        )
