"""Where images come from: folders, tar shards, Parquet and CSV manifests, s3:// prefixes, all listed as items.

An entry of `pool` is such a source as a text, or `{path: SOURCE, tiles: {side: 256}}`: its images are cut into tiles.
Nothing is unpacked: an item is read from where it lies, so a name inside an archive can never become a path on disk.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dinomill.config import Config, config_error
from dinomill.errors import ConfigError, InputError
from dinomill.images import places
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.file_bytes import MOST_BYTES, read_file, too_large
from dinomill.images.item import FAULTS, TILE, Item
from dinomill.images.tiles import Tile, TileConfig, read_tile
from dinomill.storage import s3
from dinomill.storage.hashing import hash_bytes

__all__ = [
    "FAULTS",
    "TILE",
    "Item",
    "as_item",
    "list_items",
    "read_again",
    "read_item",
    "read_row",
    "read_unchanged",
    "split_tiles",
    "tile_columns",
]


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
    places = [one if s3.is_uri(one) else os.path.normpath(one) for one in sources]
    if repeated := sorted({one for one in tiles if places.count(os.path.normpath(one)) > 1}):
        raise ConfigError(
            f"`pool` names {repeated[0]} twice, and once it is cut into tiles.",
            expected="one entry for a place: a file has one way into the dataset",
            action="take one of them out of `pool` in globals.yml",
        )
    return sources, tiles


def list_items(source: str, tiles: TileConfig | None = None, skipped: Counter[str] | None = None) -> list[Item]:
    """Everything in a source that may be an image, sorted by path.

    Args:
        source: A folder, a ``.tar``, a ``.parquet`` or ``.csv`` manifest with a column of paths, or ``s3://bucket/prefix``.
        tiles: How its images are cut; None: they are not. Where they are, the source may be one image, too.
        skipped: Counts, by kind, what is passed over: notes, labels, what systems leave in folders.

    Raises:
        InputError: When there is no such source, a manifest has no column of paths, or what is to be cut is no file.
        StorageError: When S3 does not answer or refuses.
    """
    skipped = Counter() if skipped is None else skipped
    if tiles is not None:
        return sorted(_tiles(source, tiles, skipped), key=lambda item: item.path)
    if s3.is_uri(source):
        found = list(places.objects(source, skipped))
    else:
        path = Path(source)
        if not path.exists():
            raise InputError(
                f"There is no {source}.",
                expected="a folder of images, a .tar, a .parquet or .csv manifest, or s3://bucket/prefix",
                action="correct `pool`, `seeds` or `labelled` in globals.yml",
            )
        if path.is_dir():
            found = list(places.walk(path, skipped))
        elif path.suffix == ".tar":
            found = list(places.members(path, skipped))
        elif path.suffix in (".parquet", ".csv"):
            found = list(places.rows(path))
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
        DecodeError: When it is larger than any image, or a tile, and its picture is damaged there.
        OSError: When it cannot be read; the caller writes that in the ledger.
        StorageError: When S3 does not answer or refuses.
    """
    if item.offset == TILE:
        return read_tile(source, item.path)
    if (s3.is_uri(source) or item.offset >= 0) and item.size > MOST_BYTES:
        raise too_large(item.size)
    if s3.is_uri(source):
        return s3.read_object(source, item.path)
    if item.offset >= 0:
        with Path(source).open("rb") as file:
            file.seek(item.offset)
            return file.read(item.size)
    return read_file(Path(item.place or os.path.join(source, item.path)))  # noqa: PTH118 (a name may begin with ./)


def _tiles(source: str, tiles: TileConfig, skipped: Counter[str]) -> Iterator[Item]:
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
    for item in list_items(source, skipped=skipped):
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
        yield item._replace(fault=error.countable, detail=error.detail)
        return
    except OSError as error:
        yield item._replace(fault="unreadable", detail=error.strerror or str(error))
        return
    corners = list(tiles.places(picture.width, picture.height))
    if not corners:
        yield item._replace(
            fault=str(Reason.TOO_SMALL),
            detail=f"{picture.width}×{picture.height} pixels; a tile has {tiles.side} a side",
        )
    for x, y in corners:
        name = Tile(item.path, x, y, tiles.side, tiles.level).name
        yield Item(name, item.size // len(corners), item.stamp, TILE)


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
