"""Where the tiles of large images lie, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SHOWN = 6  # images
_MOST = 4000  # tiles of one: more could not be told apart


@dataclass(frozen=True)
class Cut:
    """A large image: its tiles as squares."""

    name: str
    width: int  # of what the tiles cover, pixels
    height: int
    tiles: tuple[tuple[int, int, int, str], ...]  # x, y, side, fate
    count: int
    kept: int


def cuts(files: pa.Table, rows: pa.ChunkedArray, fates: pa.ChunkedArray) -> list[Cut]:
    """The large images with the most tiles.

    Args:
        files: Of the scan: columns source, tile_of, tile_x, tile_y, tile_side.
        rows: Of the scan, of each file of the selection.
        fates: Of each file of the selection.
    """
    columns = ["source", "tile_of", "tile_x", "tile_y", "tile_side"]
    if not set(columns) <= set(files.column_names):
        return []
    table = files.select(columns).take(rows).append_column("fate", fates)
    table = table.filter(pc.is_valid(table["tile_of"]))
    if not table.num_rows:
        return []
    counted = table.group_by(["source", "tile_of"]).aggregate([([], "count_all")]).to_pylist()
    counted.sort(key=lambda row: (-row["count_all"], row["source"], row["tile_of"]))
    found = []
    for row in counted[:_SHOWN]:
        here = pc.and_(pc.equal(table["source"], row["source"]), pc.equal(table["tile_of"], row["tile_of"]))
        mine = table.filter(here)
        x, y, side = (mine[name].to_numpy() for name in ("tile_x", "tile_y", "tile_side"))
        fate = mine["fate"].to_pylist()
        some = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST)).astype(int))
        found.append(
            Cut(
                row["tile_of"],
                int((x + side).max()),
                int((y + side).max()),
                tuple((int(x[n]), int(y[n]), int(side[n]), fate[n]) for n in some),
                len(x),
                fate.count("kept"),
            )
        )
    return found
