"""Copies: same bytes, same pixels, or the same picture by pairs.py; the best of each group is kept.

<folder>/duplicates.parquet    a row a file that is left out: which one is kept instead, and how alike the two look
<folder>/apart.parquet         a row a file that nearly left: what it was compared with, and why it stays

A file leaves when it itself agrees with one that stays (stays.py): a labelled image, or else a better file. Better is
a file of a set that is taken whole, then one of more pixels, then of more bytes, then the first path. The paper (§3)
keeps one image of a connected component; chains of small differences then end at pictures that have little in common.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinomill.curation.content.filters import FILTER_COLUMNS, FilterConfig, apply_filters
from dinomill.curation.copies.pairs import DeduplicationConfig, Edges, Pictures, Rule, find_edges
from dinomill.curation.copies.stays import Settled, settle
from dinomill.curation.embedding.embed import Embeddings, embedding_rows, readable
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.scan import LABELLED, POOL
from dinomill.curation.scan.signatures import Colours, Signatures
from dinomill.curation.scan.tables import read_files
from dinomill.errors import InputError
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.manifest import Fate
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_json
from dinomill.vectors.products import Rows
from dinomill.vectors.self_join import Scratch

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


def deduplicate(
    scan: ScanHandle,
    embeddings: EmbeddingsHandle,
    config: DeduplicationConfig,
    filters: FilterConfig,
    *,
    folder: Path,
    work: Path | None = None,
    execution: ExecutionConfig | None = None,
) -> DuplicatesHandle:
    """Find the copies in the pool, and what is too close to the labelled images.

    What a filter leaves out is no candidate: it must not be the one of its group that stays.

    Args:
        scan: The files.
        embeddings: Their features.
        config: What is a copy.
        filters: What is left out beforehand.
        folder: Where the result goes.
        work: Where the search of many rows leaves unfinished work, to go on after a kill; removed when it is done.
            None: in ``folder``.
        execution: Where that search runs; None: processes on this machine.
    """
    columns = ["group", "candidate", "reason", "sha256", "pixels", "bytes", "width", "height", *FILTER_COLUMNS]
    files = read_files(scan, columns)
    in_pool, labelled = _equals(files["candidate"], True), _equals(files["group"], LABELLED)
    in_pool &= ~apply_filters(files, filters).out
    usable = readable(files) & (in_pool | labelled)
    rank = _rank(files, in_pool & ~_equals(files["group"], POOL), labelled)
    same = _first_of_equals(files["pixels"], usable, rank)
    single = np.flatnonzero(usable & (same == np.arange(len(same))))
    unfinished = (work or folder) / "neighbours"
    made_of = hash_json([embeddings.config_hash, scan.files_sha256])
    scratch = Scratch(unfinished, made_of, execution or ExecutionConfig())
    edges = find_edges(
        Signatures(scan.signatures),
        Embeddings(embeddings.shards),
        embedding_rows(files),
        single,
        labelled,
        config,
        scratch,
        pictures=Pictures(Colours(scan.signatures), _numbers(files["width"]) * _numbers(files["height"])),
    )
    settled = settle(edges.pairs, rank, labelled, edges.rule.judge)
    pool = in_pool & usable
    removed = _removed(files, pool, labelled, settled.stays[same], same, edges.rule)
    _require_two_images(removed, int(pool.sum()))
    apart = _apart(pool, rank, settled, edges)
    write_parquet(folder / "duplicates.parquet", removed)
    write_parquet(folder / "apart.parquet", apart)
    shutil.rmtree(unfinished, ignore_errors=True)
    fates = zip(removed["fate"].to_pylist(), removed["reason"].to_pylist(), strict=True)
    return DuplicatesHandle(
        folder=folder,
        config_hash=hash_json([embeddings.config_hash, config.content_hash(), filters.content_hash()]),
        duplicates=folder / "duplicates.parquet",
        counts=dict(sorted(Counter(f"{fate}:{reason}" for fate, reason in fates).items())),
        searches=edges.searches,
        apart=folder / "apart.parquet",
        kept_apart=dict(sorted(Counter(apart["reason"].to_pylist()).items())),
        aligned=edges.rule.aligned,
    )


def _equals(column: pa.ChunkedArray, value: str | bool) -> Mask:
    import pyarrow.compute as pc

    return np.asarray(pc.equal(column, value).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _rank(files: pa.Table, as_is: Mask, labelled: Mask) -> Rows:
    """The place of each file when the best comes first.

    Labelled images, which nothing replaces; files of a set taken whole; most pixels; most bytes; first found.
    """
    width, height, size = (_numbers(files[name]) for name in ("width", "height", "bytes"))
    order = np.lexsort((np.arange(len(files)), -size, -width * height, ~as_is, ~labelled))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _first_of_equals(column: pa.ChunkedArray, usable: Mask, rank: Rows) -> Rows:
    """For each row the best-ranked row with the same value; itself when there is none or it is unusable."""
    code = _codes(column)
    best = np.arange(len(code), dtype=np.int64)
    rows = np.flatnonzero(usable)
    rows = rows[np.lexsort((rank[rows], code[rows]))]
    starts = np.flatnonzero(np.diff(code[rows], prepend=-1))
    best[rows] = np.repeat(rows[starts], np.diff(starts, append=len(rows)))
    return best


def _removed(files: pa.Table, pool: Mask, labelled: Mask, stays: Rows, same: Rows, rule: Rule) -> pa.Table:
    """A row for every file of the pool that leaves; ``stays``: the row that stays in place of each."""
    row = np.flatnonzero(pool & (stays != np.arange(len(stays))))
    kept = stays[row]
    code = _codes(files["sha256"])
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


def _apart(pool: Mask, rank: Rows, settled: Settled, edges: Edges) -> pa.Table:
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


def _require_two_images(removed: pa.Table, files: int) -> None:
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


def _codes(column: pa.ChunkedArray) -> Rows:
    """Strings as numbers, equal for equal strings; -1 for null."""
    codes = column.combine_chunks().dictionary_encode().indices
    return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return np.asarray(column.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
