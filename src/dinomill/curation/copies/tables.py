"""The two tables of the step: what leaves, and what nearly left."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinomill.curation.copies.pairs import Edges, Rule
from dinomill.curation.copies.stays import Settled
from dinomill.errors import InputError
from dinomill.images.manifest import Fate
from dinomill.vectors.products import Rows

SAME_BYTES, SAME_PIXELS, SIGNATURE, EMBEDDING = "same_bytes", "same_pixels", "signature", "embedding"
COLOUR, CHAIN = "colour", "chain"  # why a file stays that nearly left

DUPLICATES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the scan: the file that is left out
        pa.field("kept", pa.int64(), nullable=False),  # of the scan: the file that stays, or the labelled image
        pa.field("fate", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # same_bytes, same_pixels, signature, embedding
        pa.field("distance", pa.float32(), nullable=False),  # of the two signatures: 1 - correlation
    ]
)
APART_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the scan: a file of the pool that stays
        pa.field("other", pa.int64(), nullable=False),  # a better one that stays too, or a labelled image
        # colour: their signatures agree; chain: both agree with something that leaves, but not with each other
        pa.field("reason", pa.string(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),  # of the two signatures
    ]
)

Mask = npt.NDArray[np.bool_]


def removed_files(files: pa.Table, pool: Mask, labelled: Mask, stays: Rows, same: Rows, rule: Rule) -> pa.Table:
    """A row for every file of the pool that leaves; ``stays``: the row that stays in place of each."""
    row = np.flatnonzero(pool & (stays != np.arange(len(stays))))
    kept = stays[row]
    code = codes(files["sha256"])
    equal = same[row] == same[kept]
    verdict = rule.judge(same[row], same[kept])
    reason = np.select(
        [equal & (code[row] == code[kept]), equal, verdict.by_look], [SAME_BYTES, SAME_PIXELS, SIGNATURE], EMBEDDING
    )
    fate = np.select(
        [labelled[kept], equal],
        [Fate.EVALUATION_OVERLAP.value, Fate.EXACT_DUPLICATE.value],
        Fate.NEAR_DUPLICATE.value,
    )
    distance = np.where(equal, 0.0, verdict.distance)
    return pa.table([row, kept, fate.tolist(), reason.tolist(), distance.astype(np.float32)], schema=DUPLICATES_SCHEMA)


def apart_files(pool: Mask, rank: Rows, settled: Settled, edges: Edges) -> pa.Table:
    """For every file of the pool that nearly left the nearest one that it was compared with."""
    pairs = settled.apart.and_these(edges.other_colour)
    colour = np.append(settled.by_colour, np.ones(len(edges.other_colour.left), dtype=np.bool_))
    first = rank[pairs.left] < rank[pairs.right]
    better, worse = np.where(first, pairs.left, pairs.right), np.where(first, pairs.right, pairs.left)
    both = pool[worse] & (settled.stays[worse] == worse) & (settled.stays[better] == better)
    better, worse, distance, colour = better[both], worse[both], pairs.distance[both], colour[both]
    order = np.lexsort((rank[better], distance, worse))
    order = order[np.diff(worse[order], prepend=-1) != 0]
    reason = np.where(colour[order], COLOUR, CHAIN)
    columns = [worse[order], better[order], reason.tolist(), distance[order].astype(np.float32)]
    return pa.table(columns, schema=APART_SCHEMA)


def require_two_images(removed: pa.Table, files: int) -> None:
    """Refuse a pool of one distinct image.

    Raises:
        InputError: When all files of the pool show the same picture.
    """
    fates = Counter(removed["fate"].to_pylist())
    if files - len(removed) != 1 or fates[Fate.EVALUATION_OVERLAP.value]:
        return
    if files == 1:
        found = "one file that can be used"
    else:
        exact, near = fates[Fate.EXACT_DUPLICATE.value], fates[Fate.NEAR_DUPLICATE.value]
        found = f"{files:,} files that can be used: one image, {exact:,} exact and {near:,} near copies of it"
    raise InputError(
        "The pool holds one distinct image.",
        found=found,
        expected="at least two: nothing can be learnt from one",
        action="add images to `pool` in globals.yml; if these are different, give curation.deduplication.certain and "
        "max_distance smaller values (docs/how-to/copies.md)",
    )


def codes(column: pa.ChunkedArray) -> Rows:
    """Strings as numbers, equal for equal strings; -1 for null."""
    codes = column.combine_chunks().dictionary_encode().indices
    return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def numbers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of integers; 0 for null."""
    return np.asarray(column.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
