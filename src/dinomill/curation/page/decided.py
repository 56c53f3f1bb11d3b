"""The selection as numbers, to draw samples from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dinomill.arrays import Rows
from dinomill.images.manifest import Fate


class Decided:
    """Columns of the selection as numbers; -1 stands for null."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.row = _numbers(table["row"])
        self.duplicate_of = _numbers(table["duplicate_of"])
        self.seed = _numbers(table["seed"])
        self.similarity = np.asarray(table["seed_similarity"].fill_null(np.nan).to_numpy(), dtype=np.float64)
        self.embedding_row = _numbers(table["embedding_row"])
        self.cluster = _numbers(table["cluster"])
        self.fates, self.fate = _codes(table["fate"])
        self.titles, self.title = _codes(pc.coalesce(table["reason"], table["fate"]))
        self.count = np.bincount(self.title, minlength=len(self.titles))
        self.reasons = self._in_order()

    def _in_order(self) -> list[int]:
        """The codes of the titles: what is kept, then as it is decided, and last what cannot be shown."""
        order = [Fate.KEPT, *(fate for fate in Fate if fate not in (Fate.KEPT, Fate.QUARANTINED)), Fate.QUARANTINED]
        codes, places = np.unique(self.title, return_index=True)
        rank = {
            code: order.index(Fate(self.fates[self.fate[place]])) for code, place in zip(codes, places, strict=True)
        }
        return sorted(rank, key=lambda code: (rank[code], -self.count[code], self.titles[code]))

    def of_fate(self, *fates: Fate) -> npt.NDArray[np.bool_]:
        """Which places have one of some fates."""
        codes = [number for number, name in enumerate(self.fates) if name in fates]
        return np.isin(self.fate, codes)

    def details(self, places: Rows) -> list[str]:
        """What the ledger says of some places."""
        return [detail or "" for detail in self._table["detail"].take(pa.array(places)).to_pylist()]


def draw(places: Rows, count: int, generator: np.random.Generator) -> Rows:
    """Up to ``count`` of the places, in order."""
    if len(places) <= count:
        return places
    return np.sort(places[generator.choice(len(places), count, replace=False)])


def _numbers(column: pa.ChunkedArray) -> Rows:
    return np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy(), dtype=np.int64)


def _codes(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The distinct values, and which of them each row has."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), np.asarray(coded.indices.to_numpy(), dtype=np.int32)
