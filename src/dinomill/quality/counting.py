"""Tables too long to be looked at row by row: counts over the whole table, read in pieces, and a seeded sample of rows.

What a suite asks of each row is asked of a sample only; what can be counted is counted everywhere, in Arrow. Never are
more than a few columns of one piece in memory (for the search of repeated hashes: eight bytes a row).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as ds

_NAMED = 5  # rows that a broken rule names
_PREFIX = 16  # hexadecimal digits of a hash that are compared first: eight bytes


class Rule(NamedTuple):
    """What no row may be."""

    name: str
    broken: pc.Expression


def count_broken(path: Path, rules: list[Rule], keep: pc.Expression | None = None) -> pd.DataFrame:
    """How many rows break each rule: columns ``rule``, ``broken`` and ``examples``.

    Args:
        path: A Parquet table with columns ``source`` and ``path``.
        rules: What no row may be.
        keep: Rows that are looked at; None: all.
    """
    import pandas as pd

    table = _open(path)
    rows = []
    for rule in rules:
        broken = rule.broken if keep is None else rule.broken & keep
        count = table.count_rows(filter=broken)
        rows.append((rule.name, count, _examples(table, broken) if count else ""))
    return pd.DataFrame(rows, columns=["rule", "broken", "examples"])


def count_repeated(path: Path, keep: pc.Expression) -> tuple[str, int, str]:
    """Rows whose ``sha256`` an earlier one has, as a row of `count_broken`'s table."""
    table = _open(path)
    prefixes = np.sort(np.concatenate([*_prefixes(table, keep), np.empty(0, dtype=">u8")]))
    twice = np.unique(prefixes[1:][prefixes[1:] == prefixes[:-1]])
    name = "kept twice, with the same bytes"
    if not len(twice):
        return name, 0, ""
    # The beginnings are equal; are the hashes?
    suspects = [f"{int(value):0{_PREFIX}x}" for value in twice]
    same = keep & pc.utf8_slice_codeunits(pc.field("sha256"), 0, _PREFIX).isin(suspects)
    found = table.to_table(columns=["sha256", "source", "path"], filter=same).to_pylist()
    seen: set[str] = set()
    again = [row for row in found if row["sha256"] in seen or seen.add(row["sha256"])]  # type: ignore[func-returns-value]
    return name, len(again), _named(again[:_NAMED])


def sample_numbers(total: int, count: int) -> npt.NDArray[np.int64]:
    """The numbers of the rows of a table that are looked at, in order: all, or a seeded sample of ``count``."""
    if total <= count:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, count, replace=False))


def sample_rows(path: Path, columns: list[str], count: int, keep: pc.Expression | None = None) -> tuple[pa.Table, int]:
    """A seeded sample of a table's rows, in order, and how many there are in all; all of them when they are few.

    Args:
        path: A Parquet table.
        columns: Those that are wanted.
        count: Rows wanted.
        keep: Rows that count; None: all.
    """
    table = _open(path)
    total = table.count_rows(filter=keep)
    if total <= count:
        return table.to_table(columns=columns, filter=keep), total
    wanted = sample_numbers(total, count)
    pieces, start = [], 0
    for batch in table.to_batches(columns=columns, filter=keep):
        first, last = np.searchsorted(wanted, [start, start + len(batch)])
        pieces.append(batch.take(pa.array(wanted[first:last] - start)))
        start += len(batch)
    return pa.Table.from_batches(pieces), total


def _prefixes(table: ds.Dataset, keep: pc.Expression) -> Iterator[npt.NDArray[Any]]:
    """The beginnings of all hashes as numbers, piece by piece."""
    for batch in table.to_batches(columns=["sha256"], filter=keep):
        short = pc.utf8_slice_codeunits(batch["sha256"].drop_null(), 0, _PREFIX)
        yield np.frombuffer(bytes.fromhex("".join(short.to_pylist())), dtype=">u8")


def _examples(table: ds.Dataset, broken: pc.Expression) -> str:
    return _named(table.head(_NAMED, columns=["source", "path"], filter=broken).to_pylist())


def _named(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['source']}/{row['path']}" for row in rows)


def _open(path: Path) -> ds.Dataset:
    import pyarrow.dataset as ds  # brings pandas, and every start reads the gate's configuration

    return ds.dataset(path, format="parquet")
