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
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dinomill.arrays import Mask, Rows
from dinomill.curation.content.filters import FILTER_COLUMNS, FilterConfig, apply_filters
from dinomill.curation.copies.pairs import DeduplicationConfig, Edges, Pictures, find_edges
from dinomill.curation.copies.stays import settle
from dinomill.curation.copies.tables import apart_files, codes, numbers, removed_files, require_two_images
from dinomill.curation.embedding.embed import Embeddings, embedding_rows, readable
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.scan import LABELLED, POOL
from dinomill.curation.scan.signatures import Colours, Signatures
from dinomill.curation.scan.tables import read_files
from dinomill.curation.work_done import TAKEN_OVER, counted, say
from dinomill.execution.tasks import ExecutionConfig
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_json
from dinomill.vectors.self_join import Scratch

_COLUMNS = ["group", "candidate", "reason", "sha256", "pixels", "bytes", "width", "height", *FILTER_COLUMNS]


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

    Raises:
        InputError: When all of the pool is one image.
    """
    files = read_files(scan, _COLUMNS)
    of = _Files.of(files, filters)
    rank = _rank(files, of.pool & ~_equals(files["group"], POOL), of.labelled)
    same = _first_of_equals(files["pixels"], of.usable, rank)
    single = np.flatnonzero(of.usable & (same == np.arange(len(same))))
    unfinished = (work or folder) / "neighbours"
    made_of = hash_json([embeddings.made_of, scan.files_sha256])
    edges = find_edges(
        Signatures(scan.signatures),
        Embeddings(embeddings.shards),
        embedding_rows(files),
        single,
        of.labelled,
        config,
        Scratch(unfinished, made_of, execution or ExecutionConfig(), work and work / "compared"),
        pictures=Pictures(Colours(scan.signatures), numbers(files["width"]) * numbers(files["height"])),
    )
    settled = settle(edges.pairs, rank, of.labelled, edges.rule.judge)
    pool = of.pool & of.usable
    removed = removed_files(files, pool, of.labelled, settled.stays[same], same, edges.rule)
    require_two_images(removed, int(pool.sum()))
    apart = apart_files(pool, rank, settled, edges)
    write_parquet(folder / "duplicates.parquet", removed)
    write_parquet(folder / "apart.parquet", apart)
    shutil.rmtree(unfinished, ignore_errors=True)
    made = hash_json([embeddings.made_of, config.content_hash(), filters.content_hash()])
    fates = zip(removed["fate"].to_pylist(), removed["reason"].to_pylist(), strict=True)
    return DuplicatesHandle(
        folder=folder,
        made_of=made,
        duplicates=folder / "duplicates.parquet",
        counts=dict(sorted(Counter(f"{fate}:{reason}" for fate, reason in fates).items())),
        searches=edges.searches,
        apart=folder / "apart.parquet",
        kept_apart=dict(sorted(Counter(apart["reason"].to_pylist()).items())),
        aligned=edges.rule.aligned,
        work=_did(edges, len(single), made, work),
    )


class _Files(NamedTuple):
    """Which files take part, [rows] each."""

    pool: Mask  # candidates for the dataset that no filter leaves out
    labelled: Mask
    usable: Mask  # readable, and one of the two

    @classmethod
    def of(cls, files: pa.Table, filters: FilterConfig) -> _Files:
        pool, labelled = _equals(files["candidate"], True), _equals(files["group"], LABELLED)
        pool &= ~apply_filters(files, filters).out
        return cls(pool, labelled, readable(files) & (pool | labelled))


def _did(edges: Edges, images: int, made: str, work: Path | None) -> dict[str, int]:
    """What was compared anew: said, and counted for the handle."""
    compared = max(report.compared for report in edges.searches.values())
    say("compare", compared, images, images - compared)
    did = {"compared": compared, TAKEN_OVER: images - compared}
    return counted(work, "duplicates", made, did) if work else did


def _equals(column: pa.ChunkedArray, value: str | bool) -> Mask:
    import pyarrow.compute as pc

    return np.asarray(pc.equal(column, value).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _rank(files: pa.Table, as_is: Mask, labelled: Mask) -> Rows:
    """The place of each file when the best comes first.

    Labelled images, which nothing replaces; files of a set taken whole; most pixels; most bytes; first found.
    """
    width, height, size = (numbers(files[name]) for name in ("width", "height", "bytes"))
    order = np.lexsort((np.arange(len(files)), -size, -width * height, ~as_is, ~labelled))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _first_of_equals(column: pa.ChunkedArray, usable: Mask, rank: Rows) -> Rows:
    """For each row the best-ranked row with the same value; itself when there is none or it is unusable."""
    code = codes(column)
    best = np.arange(len(code), dtype=np.int64)
    rows = np.flatnonzero(usable)
    rows = rows[np.lexsort((rank[rows], code[rows]))]
    starts = np.flatnonzero(np.diff(code[rows], prepend=-1))
    best[rows] = np.repeat(rows[starts], np.diff(starts, append=len(rows)))
    return best
