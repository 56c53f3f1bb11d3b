"""The kinds of sources, each as its items: folders, tars, manifests, prefixes on S3. What is no image is counted."""

from __future__ import annotations

import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dinomill.errors import InputError
from dinomill.images.item import Item
from dinomill.images.sidecars import HEAD, begins_like_image, is_passed_over, may_be_image, sidecar_kind
from dinomill.storage import s3

if TYPE_CHECKING:
    import pyarrow

_PATH_COLUMNS = ("path", "file", "file_name", "filename", "filepath", "image", "image_path", "local_path")


def objects(source: str, skipped: Counter[str]) -> Iterator[Item]:
    """The objects under a prefix; by their names alone, nothing is fetched."""
    for entry in s3.list_objects(source):
        if (kind := sidecar_kind(entry.path)) is not None:
            skipped[kind] += 1
        else:
            yield Item(entry.path, entry.size, entry.etag)


def walk(root: Path, skipped: Counter[str]) -> Iterator[Item]:
    """Every entry below a folder; links to folders are not followed, so there are no loops."""
    top = root.resolve()
    for folder, folders, files in os.walk(root, followlinks=False, onerror=_refuse):
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*files, *links):
            path, relative = os.path.join(folder, name), prefix + name  # noqa: PTH118 (a Path takes ten times as long)
            shown = relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if (kind := sidecar_kind(relative)) is not None and is_passed_over(kind, path):
                skipped[kind] += 1
            elif shown != relative:
                yield Item(shown, 0, "", fault="name_not_utf8")
            else:
                yield _file(path, relative, top)


def _refuse(error: OSError) -> None:
    raise InputError(
        f"Cannot list the folder {error.filename}.",
        found=os.strerror(error.errno or 0),
        action="give this user the right to read it, or leave it out of the source",
    ) from None


def _file(name: str, relative: str, top: Path) -> Item:
    with suppress(OSError):
        status = os.lstat(name)  # its folder is no link: where it lies is known
        if stat.S_ISREG(status.st_mode):
            return Item(relative, status.st_size, str(status.st_mtime_ns))
    path = Path(name)
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # the target is missing, or (RuntimeError before Python 3.13) the links go round
        return Item(relative, 0, "", fault="broken_link")
    if not real.is_relative_to(top):
        return Item(relative, 0, "", fault="link_outside")
    status = real.stat()
    if stat.S_ISDIR(status.st_mode):
        return Item(relative, 0, "", fault="link_to_folder")
    if not stat.S_ISREG(status.st_mode):
        return Item(relative, 0, "", fault="not_a_file")
    return Item(relative, status.st_size, str(status.st_mtime_ns))


def members(path: Path, skipped: Counter[str]) -> Iterator[Item]:
    """The members of an uncompressed tar, but for sidecars such as WebDataset's (.json, .txt, .cls)."""
    stamp = str(path.stat().st_mtime_ns)
    seen: set[str] = set()
    try:
        with path.open("rb") as file, tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                if member.isdir():
                    continue
                if (kind := sidecar_kind(name)) is not None:
                    file.seek(member.offset_data)
                    if not (may_be_image(kind) and member.isreg() and begins_like_image(file.read(HEAD))):
                        skipped[kind] += 1
                        continue
                fault = ""
                if not member.isreg():
                    fault = "not_a_file"
                elif name.startswith("/") or ".." in PurePosixPath(name).parts:
                    fault = "unsafe_path"
                elif name in seen:
                    fault = "repeated_name"
                    name = f"{name}@{member.offset_data}"
                seen.add(name)
                yield Item(name, member.size if not fault else 0, stamp, member.offset_data, fault)
    except tarfile.TarError as error:
        raise InputError(
            f"{path} is not a readable tar archive.",
            found=str(error),
            expected="an uncompressed tar, as WebDataset writes them",
            action="write it again, or take it out of the pool",
        ) from None


def _table(path: Path) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    # Paths are text: a file 007 is no number, and one called NA is there.
    text = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(_PATH_COLUMNS, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        table = pyarrow.csv.read_csv(path, convert_options=text)
        table.column_names  # noqa: B018 (decoded here: a file of another encoding shows in them)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The manifest {path} cannot be read as a table.",
            found=str(error).splitlines()[0],
            expected="Parquet, or CSV in UTF-8 with commas",
            action="write it again so",
        ) from None
    return table


def rows(path: Path) -> Iterator[Item]:
    """The files that a manifest names; relative paths start at the manifest's folder."""
    table = _table(path)
    column = next((name for name in _PATH_COLUMNS if name in table.column_names), None)
    if column is None:
        raise InputError(
            f"The manifest {path} has no column of paths.",
            found=f"columns {', '.join(table.column_names)}",
            expected=f"a column named {' or '.join(_PATH_COLUMNS)}",
            action="rename the column that holds the images' paths",
        )
    if (times := table.column_names.count(column)) > 1:
        raise InputError(
            f"The manifest {path} has the column {column!r} {times} times.",
            found=f"columns {', '.join(table.column_names)}",
            action="take one of them out, or give it another name",
        )
    for name in dict.fromkeys(str(value) for value in table[column].to_pylist() if value):
        file = path.parent / name
        try:
            status = file.stat()
        except (OSError, ValueError):  # a zero byte in a name is a ValueError
            yield Item(name, 0, "", fault="missing")
            continue
        if stat.S_ISREG(status.st_mode):
            yield Item(name, status.st_size, str(status.st_mtime_ns), place=str(file))
        else:
            yield Item(name, 0, "", fault="not_a_file")
