"""Copies: same bytes, same pixels, or the same picture by pairs.py; the best of each group is kept.

<folder>/duplicates.parquet    a row a file that is left out: which one is kept instead, and how alike the two look

Edges make connected components (paper, §3). The best file of a component stays: one of a set that is taken whole, then
most pixels, then most bytes, then the first path. A component that touches a labelled image is dropped whole.
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
from dinomill.curation.copies.pairs import DeduplicationConfig, Edges, find_edges
from dinomill.curation.embedding.embed import Embeddings, embedding_rows, readable
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.scan import LABELLED, POOL
from dinomill.curation.scan.signatures import Signatures
from dinomill.curation.scan.tables import read_files
from dinomill.curation.work_done import TAKEN_OVER, counted, say
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.manifest import Fate
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_json
from dinomill.vectors.components import best_of_each, connected_components
from dinomill.vectors.index import exact_similarity
from dinomill.vectors.products import Rows, Vectors
from dinomill.vectors.self_join import Scratch

DUPLICATES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the scan: the file that is left out
        pa.field("kept", pa.int64(), nullable=False),  # of the scan: the file that stays, or the labelled image
        pa.field("fate", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # same_bytes, same_pixels, signature, embedding
        pa.field("distance", pa.float32(), nullable=False),  # of the two signatures: 1 - correlation
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
    rank = _rank(files, in_pool & ~_equals(files["group"], POOL))
    same = _first_of_equals(files["pixels"], usable, rank)
    looks = Signatures(scan.signatures)
    single = np.flatnonzero(usable & (same == np.arange(len(same))))
    unfinished = (work or folder) / "neighbours"
    made_of = hash_json([embeddings.config_hash, scan.files_sha256])
    past = work and work / "compared"
    scratch = Scratch(unfinished, made_of, execution or ExecutionConfig(), past)
    edges = find_edges(looks, Embeddings(embeddings.shards), embedding_rows(files), single, labelled, config, scratch)
    every = np.arange(len(same))
    component = connected_components(
        len(same), np.concatenate([edges.left, every]), np.concatenate([edges.right, same])
    )
    table = _removed(files, in_pool & usable, labelled & usable, rank, component, same, edges, looks)
    write_parquet(folder / "duplicates.parquet", table)
    shutil.rmtree(unfinished, ignore_errors=True)
    compared = max(report.compared for report in edges.searches.values())
    say("compare", compared, len(single), len(single) - compared)
    fates = zip(table["fate"].to_pylist(), table["reason"].to_pylist(), strict=True)
    made = hash_json([embeddings.config_hash, config.content_hash(), filters.content_hash()])
    did = {"compared": compared, TAKEN_OVER: len(single) - compared}
    return DuplicatesHandle(
        folder=folder,
        config_hash=made,
        duplicates=folder / "duplicates.parquet",
        counts=dict(sorted(Counter(f"{fate}:{reason}" for fate, reason in fates).items())),
        searches=edges.searches,
        work=counted(work, "duplicates", made, did) if work else did,
    )


def _equals(column: pa.ChunkedArray, value: str | bool) -> Mask:
    import pyarrow.compute as pc

    return np.asarray(pc.equal(column, value).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _rank(files: pa.Table, as_is: Mask) -> Rows:
    """The place of each file when the best comes first: of a set taken whole, most pixels, most bytes, first found."""
    width, height, size = (_numbers(files[name]) for name in ("width", "height", "bytes"))
    order = np.lexsort((np.arange(len(files)), -size, -width * height, ~as_is))
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


def _removed(
    files: pa.Table, pool: Mask, labelled: Mask, rank: Rows, component: Rows, same: Rows, edges: Edges, looks: Vectors
) -> pa.Table:
    """A row for every file of the pool that is not the best of its component, or whose component is labelled."""
    best = best_of_each(component, np.flatnonzero(pool), rank)
    reference = best_of_each(component, np.flatnonzero(labelled), rank)
    overlap = reference[component] >= 0
    row = np.flatnonzero(pool & (overlap | (best[component] != np.arange(len(component)))))
    kept = np.where(overlap[row], reference[component[row]], best[component[row]])
    bytes_code = _codes(files["sha256"])
    exact_pixels = (same[row] != row) | (same[kept] == same[row])
    exact_bytes = (
        bytes_code[row] == bytes_code[np.where(exact_pixels, np.where(same[row] != row, same[row], kept), kept)]
    )
    by_embedding = np.zeros(len(component), dtype=np.bool_)
    by_embedding[np.concatenate([edges.left[edges.by_embedding], edges.right[edges.by_embedding]])] = True
    look = np.zeros(len(component), dtype=np.bool_)
    look[np.concatenate([edges.left[~edges.by_embedding], edges.right[~edges.by_embedding]])] = True
    reason = np.select(
        [exact_bytes, exact_pixels, by_embedding[row] & ~look[row]],
        ["same_bytes", "same_pixels", "embedding"],
        "signature",
    )
    fate = np.select(
        [overlap[row], exact_bytes | exact_pixels],
        [Fate.EVALUATION_OVERLAP.value, Fate.EXACT_DUPLICATE.value],
        Fate.NEAR_DUPLICATE.value,
    )
    distance = np.where(exact_pixels & (same[kept] == same[row]), 0.0, 1 - exact_similarity(looks, row, kept))
    return pa.table([row, kept, fate.tolist(), reason.tolist(), distance.astype(np.float32)], schema=DUPLICATES_SCHEMA)


def _codes(column: pa.ChunkedArray) -> Rows:
    """Strings as numbers, equal for equal strings; -1 for null."""
    codes = column.combine_chunks().dictionary_encode().indices
    return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return np.asarray(column.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
