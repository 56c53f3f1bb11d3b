"""Where images come from: folders, tar shards, Parquet and CSV manifests, s3:// prefixes, all listed as items.

An entry of `pool` is such a source as a text, or `{path: SOURCE, tiles: {side: 256}}`: its images are cut into tiles.
Nothing is unpacked: an item is read from where it lies, so a name inside an archive can never become a path on disk.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import ValidationError

from dinomill.config import Config, config_error
from dinomill.errors import ConfigError, InputError
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.tiles import Tile, TileConfig, read_tile
from dinomill.storage import s3
from dinomill.storage.hashing import hash_bytes

_PATH_COLUMNS = ("path", "file", "file_name", "filename", "filepath", "image", "image_path", "local_path")


TILE = -2  # as an item's offset: a window of a file, which its path names (images/tiles.py)


class Item(NamedTuple):
    """One thing found in a source, whether it is an image or not."""

    path: str  # relative to its source; unique within it
    size: int  # bytes
    stamp: str  # changes when the content may have: modification time, or S3's entity tag
    offset: int = -1  # of the payload in the source's tar; -1: a file of its own; TILE: a part of one
    fault: str = ""  # why it is not read at all: a link that leads outside, a pipe, an unsafe name
    place: str = ""  # where it is read from, when that is not source/path
    detail: str = ""  # of the fault, for people


FAULTS = {
    "name_not_utf8": "the file's name is not UTF-8, so that no manifest can hold it",
    "broken_link": "a symbolic link to nothing, or to itself",
    "link_outside": "a symbolic link that leads out of the source",
    "link_to_folder": "a symbolic link to a folder; links are not followed",
    "not_a_file": "a pipe, socket, device or link",
    "unsafe_path": "an absolute path, or one that climbs out of its archive",
    "repeated_name": "another member of the archive has the same name",
    "missing": "the manifest names it, and it is not there",
}


class _Tiled(Config):
    """An entry of `pool` that is cut into tiles."""

    path: str
    tiles: TileConfig | None = None


def split_tiles(entries: Iterable[Any]) -> tuple[list[str], dict[str, TileConfig]]:
    """The sources that the entries of `pool` name, and how those are cut that are to be.

    Raises:
        ConfigError: When an entry says what nobody understands, or two name one source.
    """
    sources: list[str] = []
    tiles: dict[str, TileConfig] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            sources.append(str(entry))
            continue
        try:
            found = _Tiled.model_validate(entry)
        except ValidationError as error:
            raise config_error(error, where="globals.yml", prefix=f"pool.{number}") from None
        sources.append(found.path)
        if found.tiles is not None:
            tiles[found.path] = found.tiles
    if repeated := sorted({one for one in tiles if sources.count(one) > 1}):
        raise ConfigError(
            f"`pool` names {repeated[0]} twice, and once it is cut into tiles.",
            expected="one entry for a place: a file has one way into the dataset",
            action="take one of them out of `pool` in globals.yml",
        )
    return sources, tiles


def list_items(source: str, tiles: TileConfig | None = None) -> list[Item]:
    """Everything in a source, sorted by path.

    Args:
        source: A folder, a ``.tar``, a ``.parquet`` or ``.csv`` manifest with a column of paths, or ``s3://bucket/prefix``.
        tiles: How its images are cut; None: they are not. Then the source may be one image, too.

    Raises:
        InputError: When there is no such source, a manifest has no column of paths, or what is to be cut is no file.
        StorageError: When S3 does not answer or refuses.
    """
    if tiles is not None:
        return sorted(_tiles(source, tiles), key=lambda item: item.path)
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
        DecodeError: When it is a tile, and its picture is damaged there.
        OSError: When it cannot be read; the caller writes that in the ledger.
        StorageError: When S3 does not answer or refuses.
    """
    if item.offset == TILE:
        return read_tile(source, item.path)
    if s3.is_uri(source):
        return s3.read_object(source, item.path)
    if item.offset >= 0:
        with Path(source).open("rb") as file:
            file.seek(item.offset)
            return file.read(item.size)
    return Path(item.place or os.path.join(source, item.path)).read_bytes()  # noqa: PTH118 (a name may begin with ./)


def _tiles(source: str, tiles: TileConfig) -> Iterator[Item]:
    """The tiles of every image of a source; what cannot be cut is an item with its fault."""
    path = Path(source)
    if s3.is_uri(source) or path.suffix == ".tar":
        raise InputError(
            f"Images in {source} cannot be cut into tiles.",
            found="an archive" if path.suffix == ".tar" else "a prefix on S3",
            expected="a folder, a manifest or an image on a disk: large files are read in windows",
            action="copy the images to a disk of this machine, or leave `tiles` out",
        )
    if path.is_file() and path.suffix not in (".parquet", ".csv"):
        status = path.stat()
        yield from _cut(path, Item(path.name, status.st_size, str(status.st_mtime_ns)), tiles)
        return
    for item in list_items(source):
        if item.fault:
            yield item
        else:
            yield from _cut(Path(item.place or os.path.join(source, item.path)), item, tiles)  # noqa: PTH118


def _cut(file: Path, item: Item, tiles: TileConfig) -> Iterator[Item]:
    from dinomill.images.windows import open_windows

    try:
        picture = open_windows(file, tiles.level)
        picture.require_room(tiles.side)
    except DecodeError as error:
        yield item._replace(fault=str(error.reason), detail=error.detail)
        return
    except OSError as error:
        yield item._replace(fault="unreadable", detail=error.strerror or str(error))
        return
    places = list(tiles.places(picture.width, picture.height))
    if not places:
        yield item._replace(
            fault=str(Reason.TOO_SMALL),
            detail=f"{picture.width}×{picture.height} pixels; a tile has {tiles.side} a side",
        )
    for x, y in places:
        name = Tile(item.path, x, y, tiles.side, tiles.level).name
        yield Item(name, item.size // len(places), item.stamp, TILE)


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


def tile_columns(item: Item) -> dict[str, Any]:
    """Columns tile_of, tile_x, tile_y and tile_side of an item; null where it is no tile."""
    tile = Tile.of(item.path) if item.offset == TILE else None
    return {
        "tile_of": tile and tile.parent,
        "tile_x": tile and tile.x,
        "tile_y": tile and tile.y,
        "tile_side": tile and tile.side,
    }


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
