"""The list of images whose deletion was asked for: no dataset that is made from now on holds them.

conf/withdrawn.csv      in git: one list for all environments, a row an image
    sha256      of the file's bytes; empty for a row that names a picture that is cut into tiles
    pixels      hash of what is seen: the same picture with other metadata has it, too
    picture     source/path of a picture that is cut into tiles: all its tiles are withdrawn, however they are cut
    copy_of     sha256 of the image whose near copy it is; empty: it was asked for itself
    date        when, as YYYY-MM-DD
    because     why

An image is known by what it holds, not by where it lies: moved, renamed or added again, it stays withdrawn.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from dinomill.arrays import Mask
from dinomill.errors import InputError
from dinomill.storage.atomic import write_text
from dinomill.storage.hashing import hash_json

if TYPE_CHECKING:
    from _csv import Reader  # `csv` itself does not name it

WITHDRAWN = "withdrawn"  # the reason that the scan gives, and the fate
_HASH = re.compile(r"[0-9a-f]{64}")


class Withdrawal(NamedTuple):
    """One row of the list."""

    sha256: str
    pixels: str = ""
    picture: str = ""
    copy_of: str = ""
    date: str = ""
    because: str = ""

    @property
    def key(self) -> str:
        """What makes it this row and no other."""
        return self.picture or self.sha256


class WithdrawnList:
    """What was withdrawn.

    Args:
        rows: One an image; of rows that mean the same image the first counts.
    """

    def __init__(self, rows: Iterable[Withdrawal] = ()) -> None:
        self.rows = tuple({row.key: row for row in reversed(list(rows))}.values())[::-1]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, path: Path | None) -> WithdrawnList:
        """Read the list; None: there is none, and nothing is withdrawn.

        Raises:
            InputError: When the file is not there (what it named would come back without a word), or a row is no row.
        """
        if path is None:
            return cls()
        try:
            text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin it with a byte order mark
        except FileNotFoundError:
            raise InputError(
                f"There is no {path}, the list of withdrawn images.",
                expected="a file in git; where nothing was withdrawn it holds the names of its columns alone",
                action=f"bring it back: `git checkout -- {path}`. If this project never had one: "
                f"`echo {','.join(Withdrawal._fields)} > {path}`",
            ) from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, the list of withdrawn images, is no text in UTF-8.",
                found=str(error),
                action=f"correct it, or bring it back: `git checkout -- {path}`",
            ) from None
        return cls(_rows(path, text))

    def write(self, path: Path) -> None:
        """Write the list, whole or not at all; the same rows give the same bytes."""
        rows: list[Withdrawal] = sorted(self.rows, key=lambda row: (row.date, row.copy_of or row.key, row.key))
        write_text(path, "".join(map(_line, [Withdrawal._fields, *rows])))

    def content_hash(self) -> str:
        """Of what decides which images are out; dates and reasons do not."""
        return hash_json(sorted([row.sha256, row.pixels, row.picture] for row in self.rows))

    def of(self, files: pa.Table) -> Mask:
        """Which rows of a table of files are withdrawn, [rows].

        Args:
            files: With columns sha256, source, path and tile_of; ``pixels``, where there is one, finds the same picture
                with other metadata.
        """
        import pyarrow.compute as pc

        out = np.zeros(len(files), dtype=np.bool_)
        for name in ("sha256", "pixels"):
            known = {getattr(row, name) for row in self.rows} - {""}
            if known and name in files.column_names:
                out |= _mask(pc.is_in(files[name], value_set=pa.array(sorted(known), pa.string())))
        pictures = {row.picture for row in self.rows} - {""}
        if pictures:
            whole = pc.coalesce(files["tile_of"], files["path"])
            place = pc.binary_join_element_wise(files["source"], whole, "/")
            out |= _mask(pc.is_in(place, value_set=pa.array(sorted(pictures), pa.string())))
        return out


def _mask(found: pa.ChunkedArray) -> Mask:
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _line(cells: Iterable[str]) -> str:
    """A row that ends with a line feed; `csv` quotes a carriage return in a cell only where its rows end with one."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _rows(path: Path, text: str) -> list[Withdrawal]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        return _read(path, reader)
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}, cannot be read.",
            found=str(error),
            action=f"correct that line, or bring the list back: `git checkout -- {path}`",
        ) from None


def _read(path: Path, reader: Reader) -> list[Withdrawal]:
    fields = list(Withdrawal._fields)
    head = next(reader, None)
    if head != fields:
        raise InputError(
            f"{path} is no list of withdrawn images.",
            found=f"first line: {','.join(head or [])[:200]}",
            expected=",".join(fields),
            action=f"bring it back: `git checkout -- {path}`",
        )
    rows = []
    for cells in reader:
        if not cells:
            continue
        row = Withdrawal(*cells) if len(cells) == len(fields) else None
        hashes = [] if row is None else [one for one in (row.sha256, row.pixels, row.copy_of) if one]
        if row is None or not row.key or not all(map(_HASH.fullmatch, hashes)):
            raise InputError(
                f"{path}, line {reader.line_num}, names no image.",
                found=",".join(cells)[:200],
                expected=f"{len(fields)} columns: {', '.join(fields)}; hashes of 64 digits, and sha256 or picture",
                action="correct that line: what it means stays in no dataset only when it can be read",
            )
        rows.append(row)
    return rows
