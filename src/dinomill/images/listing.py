"""Where images come from: folders, tar shards, Parquet and CSV manifests, s3:// prefixes, all listed as items.

Nothing is unpacked: an item is read from where it lies, so a name inside an archive can never become a path on disk.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dinomill.errors import InputError
from dinomill.storage import s3
from dinomill.storage.hashing import hash_bytes

_PATH_COLUMNS = ("path", "file", "file_name", "filename", "filepath", "image", "image_path", "local_path")


class Item(NamedTuple):
    """One thing found in a source, whether it is an image or not."""

    path: str  # relative to its source; unique within it
    size: int  # bytes
    stamp: str  # changes when the content may have: modification time, or S3's entity tag
    offset: int = -1  # of the payload in the source's tar; -1: a file of its own
    fault: str = ""  # why it is not read at all: a link that leads outside, a pipe, an unsafe name
    place: str = ""  # where it is read from, when that is not source/path


def list_items(source: str) -> list[Item]:
    """Everything in a source, sorted by path.

    Args:
        source: A folder, a ``.tar``, a ``.parquet`` or ``.csv`` manifest with a column of paths, or ``s3://bucket/prefix``.

    Raises:
        InputError: When there is no such source, or a manifest has no column of paths.
        StorageError: When S3 does not answer or refuses.
    """
    if s3.is_uri(source):
        found = [Item(entry.path, entry.size, entry.etag) for entry in s3.list_objects(source)]
    else:
        path = Path(source)
        if not path.exists():
            raise InputError(
                f"There is no {source}.",
                expected="a folder of images, a .tar, a .parquet or .csv manifest, or s3://bucket/prefix",
                action="correct `pool`, `seeds` or `labelled` in globals.yml",
            )
        if path.is_dir():
            found = list(_walk(path))
        elif path.suffix == ".tar":
            found = list(_members(path))
        elif path.suffix in (".parquet", ".csv"):
            found = list(_rows(path))
        else:
            raise InputError(
                f"{source} is not a source of images.",
                found=f"a file that ends in {path.suffix or 'nothing'}",
                expected="a folder, a .tar, or a .parquet or .csv manifest",
                action="name the folder that holds the images",
            )
    return sorted(found, key=lambda item: item.path)


def read_item(source: str, item: Item) -> bytes:
    """The bytes of an item.

    Raises:
        OSError: When it cannot be read; the caller writes that in the ledger.
        StorageError: When S3 does not answer or refuses.
    """
    if s3.is_uri(source):
        return s3.read_object(source, item.path)
    if item.offset >= 0:
        with Path(source).open("rb") as file:
            file.seek(item.offset)
            return file.read(item.size)
    return Path(item.place or os.path.join(source, item.path)).read_bytes()  # noqa: PTH118 (a name may begin with ./)


def _walk(root: Path) -> Iterator[Item]:
    """Every entry below a folder; links to folders are not followed, so there are no loops."""
    top = root.resolve()
    for folder, folders, files in os.walk(root, followlinks=False, onerror=_refuse):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*files, *links):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            shown = relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if shown != relative:
                yield Item(shown, 0, "", fault="name_not_utf8")
            else:
                yield _file(path, relative, top)


def _refuse(error: OSError) -> None:
    raise InputError(
        f"Cannot list the folder {error.filename}.",
        found=os.strerror(error.errno or 0),
        action="give this user the right to read it, or leave it out of the source",
    ) from None


def _file(path: Path, relative: str, top: Path) -> Item:
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


def _members(path: Path) -> Iterator[Item]:
    """The members of an uncompressed tar. Sidecar files of WebDataset samples (.json, .txt, .cls) are left out."""
    stamp = str(path.stat().st_mtime_ns)
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                if member.isdir() or PurePosixPath(name).suffix in (".json", ".txt", ".cls"):
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


def _rows(path: Path) -> Iterator[Item]:
    """The files that a manifest names; relative paths start at the manifest's folder."""
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    column = next((name for name in _PATH_COLUMNS if name in table.column_names), None)
    if column is None:
        raise InputError(
            f"The manifest {path} has no column of paths.",
            found=f"columns {', '.join(table.column_names)}",
            expected=f"a column named {' or '.join(_PATH_COLUMNS)}",
            action="rename the column that holds the images' paths",
        )
    for name in dict.fromkeys(str(value) for value in table[column].to_pylist() if value):
        file = path.parent / name
        try:
            status = file.stat()
        except OSError:
            yield Item(name, 0, "", fault="missing")
            continue
        if stat.S_ISREG(status.st_mode):
            yield Item(name, status.st_size, str(status.st_mtime_ns), place=str(file))
        else:
            yield Item(name, 0, "", fault="not_a_file")


def as_item(row: Mapping[str, Any]) -> Item:
    """The item that a row of the table describes."""
    return Item(row["path"], row["bytes"], "", row["start"], place=row["place"])


def read_row(row: Mapping[str, Any]) -> bytes:
    """The bytes of the file that a row of the table describes (columns source, path, bytes, start, place)."""
    return read_item(row["source"], as_item(row))


def read_again(source: str, item: Item) -> bytes:
    """The bytes of an item that was read before.

    Raises:
        InputError: When it is no longer readable.
    """
    try:
        return read_item(source, item)
    except OSError as error:
        raise InputError(
            f"{source}/{item.path} was readable a moment ago and no longer is.",
            found=str(error),
            action="keep the pool unchanged while curation runs, and run it again",
        ) from None


def read_unchanged(source: str, item: Item, sha256: str) -> bytes:
    """The bytes of an item that was read before, and is still the same: what is made of it is kept by its hash.

    Raises:
        InputError: When it is no longer readable, or has changed.
    """
    data = read_again(source, item)
    if hash_bytes(data) != sha256:
        raise InputError(
            f"{source}/{item.path} changed while curation ran.",
            found="other bytes than when it was scanned",
            action="keep the pool unchanged while curation runs, and run it again",
        )
    return data
