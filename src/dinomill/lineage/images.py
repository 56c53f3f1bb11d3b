"""Which datasets an image is in, and which images are in a dataset: read from manifests of any size, part by part.

Of a million rows only the columns that tell an image are read; the rest of them where one of them is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.arrays import Mask
from dinomill.errors import InputError
from dinomill.images.manifest import Fate
from dinomill.storage.atomic import atomic_file, write_parquet

Row = dict[str, Any]

_IMAGE = ("source", "path", "tile_of", "sha256", "bytes", "format", "width", "height")
_SHOWN = (*_IMAGE, "shard", "cluster", "fate", "reason", "duplicate_of", "duplicate_source")
_LISTED = ("source", "path", "sha256", "tile_of", "tile_x", "tile_y", "tile_side", "cluster")


class Wanted(NamedTuple):
    """Images that are looked for, by any of these.

    Args:
        hashes: Sha256 of their bytes, whole.
        prefix: The beginning of one.
        paths: As people write them: below a source, or with it.
        copies_of: Paths within a source, as the column ``duplicate_of`` has them: whatever left for one of them.
    """

    hashes: Collection[str] = ()
    prefix: str = ""
    paths: Collection[str] = ()
    copies_of: Collection[str] = ()

    def columns(self) -> list[str]:
        """What has to be read to tell them."""
        found = ["sha256"] if self.hashes or self.prefix else []
        found += ["path", "tile_of", "source"] if self.paths else []
        return [*found, "duplicate_of"] if self.copies_of else found

    def among(self, table: pa.Table, sources: Collection[str]) -> Mask:
        """Which rows are wanted, [rows]."""
        import pyarrow.compute as pc

        parts: list[Any] = []
        if self.hashes:
            parts.append(pc.is_in(table["sha256"], value_set=pa.array(sorted(self.hashes), pa.string())))
        if self.prefix:
            parts.append(pc.starts_with(table["sha256"], self.prefix))
        if self.copies_of:
            parts.append(pc.is_in(table["duplicate_of"], value_set=pa.array(sorted(self.copies_of), pa.string())))
        for source, within in self._within(sources):
            names = pa.array(sorted(within), pa.string())
            here = pc.or_(pc.is_in(table["path"], value_set=names), pc.is_in(table["tile_of"], value_set=names))
            parts.append(here if source is None else pc.and_(here, pc.equal(table["source"], source)))
        out = np.zeros(len(table), dtype=np.bool_)
        for part in parts:
            out |= np.asarray(pc.fill_null(part, False).to_numpy(zero_copy_only=False), dtype=np.bool_)
        return out

    def _within(self, sources: Collection[str]) -> Iterator[tuple[str | None, set[str]]]:
        """The paths as they are within each source; those that name no source are within any."""
        free = set(self.paths)
        for source in sources:
            base = source if "://" in source else os.path.normpath(source)
            inside = {path for path in self.paths if path.startswith((f"{base}/", f"{source}/"))}
            if inside:
                free -= inside
                yield source, {path.removeprefix(f"{source}/").removeprefix(f"{base}/") for path in inside}
        if free:
            yield None, free


def rows_of(manifest: Path, wanted: Wanted, sources: Collection[str] = ()) -> list[Row]:
    """The rows of a manifest that are wanted.

    Args:
        manifest: The Parquet file.
        wanted: Which.
        sources: Of the dataset, as its handle names them.

    Raises:
        InputError: When it cannot be read.
    """
    found: list[Row] = []
    if not wanted.columns():
        return found
    try:
        with pq.ParquetFile(manifest, memory_map=True) as file:
            shown = [name for name in _SHOWN if name in file.schema_arrow.names]
            keys = [name for name in wanted.columns() if name in file.schema_arrow.names]
            for number in range(file.num_row_groups):
                table = completed(file.read_row_group(number, columns=keys), wanted.columns())
                mask = wanted.among(table, sources)
                if mask.any():
                    rows = file.read_row_group(number, columns=shown).filter(pa.array(mask))
                    found += [dict.fromkeys(_SHOWN) | row for row in rows.to_pylist()]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{manifest} is not a readable Parquet file.",
            found=str(error).splitlines()[0],
            action="bring it back: `dvc checkout --force`, or `dvc fetch --force` first",
        ) from None
    return found


def completed(table: pa.Table, names: list[str]) -> pa.Table:
    """The table with a column of nulls for each that an earlier version did not write."""
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table


def write_list(manifest: Path, file: Path) -> int:
    """Write which images a dataset keeps, as CSV or Parquet by the file's name, and how many they are.

    Raises:
        InputError: When the name ends otherwise, or the manifest cannot be read.
    """
    import pyarrow.compute as pc

    _require_list(file)
    try:
        names = [name for name in _LISTED if name in pq.read_schema(manifest).names]
        kept = pq.read_table(manifest, columns=names, filters=pc.field("fate") == Fate.KEPT.value)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{manifest} cannot be read.",
            found=str(error).splitlines()[0],
            action="where curation is at work just now, ask again when it has ended; else `dvc checkout`",
        ) from None
    if file.suffix == ".parquet":
        write_parquet(file, kept)
    else:
        from pyarrow import csv

        with atomic_file(file) as temporary:
            csv.write_csv(kept, temporary)
    return int(kept.num_rows)


def rows_listed(file: Path, wanted: Wanted) -> tuple[list[Row], int]:
    """The rows of such a list that are wanted, and how many it has.

    Raises:
        InputError: When there is none, or it has no images.
    """
    _require_list(file)
    try:
        table = pq.read_table(file) if file.suffix == ".parquet" else _read_csv(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as a list of images.",
            found=str(error).splitlines()[0],
            expected="what `dinomill lineage HASH --images FILE.csv` wrote",
            action="write it again so",
        ) from None
    if not {"sha256", "path"} & set(table.column_names):
        raise InputError(
            f"{file} lists no images.",
            found=f"columns {', '.join(table.column_names)}",
            expected=", ".join(_LISTED),
            action="write it again: dinomill lineage HASH --images FILE.csv",
        )
    table = completed(table, [*wanted.columns(), *_LISTED])
    sources = [one for one in set(table["source"].to_pylist()) if one]
    rows: list[Row] = table.filter(pa.array(wanted.among(table, sources))).to_pylist()
    return rows, len(table)


def _read_csv(file: Path) -> pa.Table:
    from pyarrow import csv

    text = dict.fromkeys(("source", "path", "sha256", "tile_of"), pa.string())
    return csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=text, strings_can_be_null=True))


def _require_list(file: Path) -> None:
    if file.suffix not in (".csv", ".parquet"):
        raise InputError(
            f"{file} names no list of images.",
            expected="a name that ends in .csv or .parquet",
            action="name the file of --images so",
        )


def image_key(row: Mapping[str, Any], whole: Collection[str]) -> str:
    """What identifies the image of a row: its content; of a tile whose picture was asked for, that picture."""
    picture = f"{row['source']}/{row['tile_of']}" if row["tile_of"] else ""
    if picture and (picture in whole or row["tile_of"] in whole):
        return picture
    return row["sha256"] or f"{row['source']}/{row['path']}"


def said_of(rows: list[Row]) -> str:
    """What became of an image in one dataset: its rows, in words."""
    kept = [row for row in rows if row["fate"] == Fate.KEPT.value]
    if len(rows) == 1:
        return _one(rows[0])
    if kept and all(row["tile_of"] for row in rows):
        return f"kept {len(kept):,} of its {len(rows):,} tiles"
    shown = [f"{row['path']}: {_one(row)}" for row in rows[:4]]
    return "; ".join(shown) + (f"; and {len(rows) - 4:,} more" if len(rows) > 4 else "")


def _one(row: Row) -> str:
    if row["fate"] == Fate.KEPT.value:
        cluster = f", cluster {row['cluster']}" if row["cluster"] is not None else ""
        return f"kept (shard {row['shard']}{cluster})"
    of = f" of {row['duplicate_of']}" if row["duplicate_of"] else ""
    fate, why = row["fate"], row["reason"] or ""
    return f"left out: {why if why.startswith(fate) else f'{fate}, {why}'}{of}"
