"""Decide what becomes of every file that may be in the dataset, and why.

<folder>/selection.parquet    a row a file of the pool and of the sets taken whole, in the scan's order
<folder>/clusters.parquet     a row a cluster: how many images it held, how many stay
<folder>/scores.parquet, borderline.parquet    what the page shows of each set of seeds: see evidence.py
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.arrays import Rows
from dinomill.curation.content.filters import FILTER_COLUMNS, FilterConfig, apply_filters
from dinomill.curation.embedding.embed import Embeddings, embedding_rows, readable
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.scan.preflight import EMPTY_TILE
from dinomill.curation.scan.scan import POOL, SEEDS
from dinomill.curation.scan.tables import read_files
from dinomill.curation.selection.balance import CLUSTERS_SCHEMA, BalanceConfig, cluster, cluster_table, share_out
from dinomill.curation.selection.evidence import judge_sets, write_evidence
from dinomill.curation.selection.retrieve import RetrievalConfig, Retrieved, check_names, retrieve
from dinomill.errors import InputError
from dinomill.images.manifest import Fate
from dinomill.images.withdrawn import WITHDRAWN
from dinomill.storage.atomic import fresh_folder, write_parquet
from dinomill.storage.hashing import hash_json

SELECTION_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the scan
        pa.field("fate", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("duplicate_of", pa.int64()),  # row of the scan
        pa.field("seed", pa.int64()),  # row of the scan: the seed it is closest to
        pa.field("seed_similarity", pa.float32()),
        pa.field("embedding_row", pa.int64()),
        pa.field("cluster", pa.int32()),
    ]
)


class Ledger:
    """Columns of the selection by scan row, filled in step by step; the first fate that fits stays."""

    def __init__(self, rows: int) -> None:
        self.fate = np.full(rows, "", dtype=object)
        self.reason = np.full(rows, None, dtype=object)
        self.detail = np.full(rows, None, dtype=object)
        self.duplicate_of = np.full(rows, -1, dtype=np.int64)
        self.seed = np.full(rows, -1, dtype=np.int64)
        self.seed_similarity = np.full(rows, np.nan)
        self.cluster = np.full(rows, -1, dtype=np.int32)

    def decide(self, rows: Rows, fate: Fate, reason: Any, detail: Any) -> None:
        """Give a fate to rows that have none; ``reason`` and ``detail`` are one value or one a row."""
        assert not self.fate[rows].any(), "a file has one fate"
        self.fate[rows], self.reason[rows], self.detail[rows] = fate.value, reason, detail

    def open(self) -> npt.NDArray[np.bool_]:
        """Which rows have no fate yet."""
        return np.asarray(self.fate == "", dtype=np.bool_)

    def table(self, rows: Rows, embedding: Rows) -> pa.Table:
        """The selection of some rows."""
        columns = [
            pa.array(rows),
            pa.array(self.fate[rows].tolist(), pa.string()),
            pa.array(self.reason[rows].tolist(), pa.string()),
            pa.array(self.detail[rows].tolist(), pa.string()),
            _or_null(self.duplicate_of[rows], pa.int64()),
            _or_null(self.seed[rows], pa.int64()),
            pa.array(self.seed_similarity[rows].astype(np.float32), mask=np.isnan(self.seed_similarity[rows])),
            _or_null(embedding[rows], pa.int64()),
            _or_null(self.cluster[rows], pa.int32()),
        ]
        return pa.table(columns, schema=SELECTION_SCHEMA)


def select(
    scan: ScanHandle,
    embeddings: EmbeddingsHandle,
    duplicates: DuplicatesHandle,
    config: RetrievalConfig,
    balance: BalanceConfig,
    filters: FilterConfig,
    *,
    folder: Path,
) -> SelectionHandle:
    """Give every file of the pool, and of the seed sets that are taken whole, its fate.

    Raises:
        ConfigError: When a seed set is configured that there is not.
        InputError: When no seed can be read, or nothing would be kept.
    """
    files = read_files(scan, ["group", "candidate", "path", "reason", "detail", "width", "height", *FILTER_COLUMNS])
    group = np.asarray(files["group"].to_pylist(), dtype=object)
    row_of = embedding_rows(files)
    ledger = Ledger(len(files))
    pool = np.flatnonzero(files["candidate"].to_numpy(zero_copy_only=False))
    bad = pool[~readable(files)[pool]]
    why = _at(files["reason"], bad)
    fates = np.full(len(bad), Fate.QUARANTINED, dtype=object)
    for reason, fate in ((EMPTY_TILE, Fate.FILTERED), (WITHDRAWN, Fate.WITHDRAWN)):
        fates[why == reason] = fate
    for fate in (Fate.QUARANTINED, Fate.FILTERED, Fate.WITHDRAWN):
        some = bad[fates == fate]
        ledger.decide(some, fate, _at(files["reason"], some), _at(files["detail"], some))
    filtered = apply_filters(files, filters)
    out = pool[filtered.out[pool]]
    ledger.decide(out, Fate.FILTERED, filtered.reason[out], filtered.detail[out])
    _decide_copies(ledger, duplicates)
    names = sorted({name for name in scan.groups if name.startswith(SEEDS)})
    check_names(config, [name.removeprefix(SEEDS) for name in names])
    sets = {name.removeprefix(SEEDS): row_of[(group == name) & readable(files)] for name in names}
    vectors = Embeddings(embeddings.shards)
    _keep_as_is(ledger, pool[group[pool] != POOL], group)
    asked = pool[ledger.open()[pool]]
    retrieved = _decide_relevance(ledger, pool, vectors, row_of, sets, config)
    judged = judge_sets(
        retrieved, {name: len(rows) for name, rows in sets.items()}, config, embeddings, _side(files, pool)
    )
    sizes = _decide_balance(ledger, pool, vectors, row_of, balance)
    left = pool[ledger.open()[pool]]
    ledger.decide(left, Fate.KEPT, None, None)
    _require_some(ledger, pool)
    fresh_folder(folder)
    write_parquet(folder / "clusters.parquet", sizes)
    write_parquet(folder / "selection.parquet", ledger.table(pool, row_of))
    write_evidence(folder, asked, retrieved)
    return SelectionHandle(
        folder=folder,
        made_of=hash_json([duplicates.made_of, config.content_hash(), balance.content_hash()]),
        selection=folder / "selection.parquet",
        clusters=folder / "clusters.parquet",
        fates={fate.value: count for fate in Fate if (count := int((ledger.fate[pool] == fate.value).sum()))},
        retrieved={name: int(found.wanted.sum()) for name, found in retrieved.items()},
        thresholds={name: found.threshold for name, found in retrieved.items() if found.threshold is not None},
        judged=judged,
        compared=duplicates.work,
        kept_apart=duplicates.kept_apart,
        apart=duplicates.apart,
        aligned=duplicates.aligned,
        searches={name: found.search for name, found in retrieved.items()},
    )


def _decide_copies(ledger: Ledger, duplicates: DuplicatesHandle) -> None:
    table = pq.read_table(duplicates.duplicates)
    rows = table["row"].to_numpy()
    fates = np.asarray(table["fate"].to_pylist(), dtype=object)
    reasons = np.asarray(table["reason"].to_pylist(), dtype=object)
    details = np.asarray([f"signature distance {d:.4f}" for d in table["distance"].to_pylist()], dtype=object)
    for fate in (Fate.EXACT_DUPLICATE, Fate.NEAR_DUPLICATE, Fate.EVALUATION_OVERLAP):
        here = fates == fate.value
        named = np.asarray([f"{fate.value}:{reason}" for reason in reasons[here]], dtype=object)
        ledger.decide(rows[here], fate, named, details[here])
    ledger.duplicate_of[rows] = table["kept"].to_numpy()


def _keep_as_is(ledger: Ledger, rows: Rows, group: npt.NDArray[np.object_]) -> None:
    """What is left of the sets that are taken whole stays: neither retrieval nor balance looks at it."""
    left = rows[ledger.open()[rows]]
    names = [f"of the seed set {name.removeprefix(SEEDS)!r}, which is taken whole" for name in group[left]]
    ledger.decide(left, Fate.KEPT, "as_is", np.asarray(names, dtype=object))


def _decide_relevance(
    ledger: Ledger, pool: Rows, vectors: Embeddings, row_of: Rows, sets: dict[str, Rows], config: RetrievalConfig
) -> dict[str, Retrieved]:
    """Leave out what no seed set asks for; without sets that ask, everything stays."""
    left = pool[ledger.open()[pool]]
    sets = {name: seeds for name, seeds in sets.items() if config.for_set(name).mode != "none"}
    if not sets or not len(left):
        return {}
    back = np.full(len(vectors), -1, dtype=np.int64)
    back[row_of[row_of >= 0]] = np.flatnonzero(row_of >= 0)
    found: dict[str, Retrieved] = {}
    wanted = np.zeros(len(left), dtype=np.bool_)
    best = np.full(len(left), -np.inf)
    for name, seeds in sets.items():
        if not len(seeds):
            raise InputError(
                f"None of the seed images of {name!r} can be read.",
                expected="at least one good example",
                action="see the quarantine ledger, and mend or remove that seed set",
            )
        found[name] = one = retrieve(vectors, row_of[left], seeds, config.for_set(name), config.search, config.seed)
        wanted |= one.wanted
        closer = one.similarity > best
        best[closer] = one.similarity[closer]
        ledger.seed[left[closer]] = back[one.nearest[closer]]
    ledger.seed_similarity[left] = best
    out = left[~wanted]
    ledger.decide(out, Fate.IRRELEVANT, "not_like_the_seeds", _details(found, best)[~wanted])
    return found


def _details(found: dict[str, Retrieved], similarity: npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
    """How close images are to a seed, and how much their score lacks to what the least demanding set asks for."""
    lacking = [one.threshold - one.score for one in found.values() if one.threshold is not None]
    if len(lacking) < len(found):
        return np.asarray([f"similarity {value:.3f} to its closest seed" for value in similarity], dtype=object)
    return np.asarray([f"its score lacks {lack:.3f}" for lack in np.min(lacking, axis=0)], dtype=object)


def _side(files: pa.Table, pool: Rows) -> float:
    """The shorter side of the pool's images, median, pixels."""
    sides = [files[name].take(pa.array(pool)).drop_null().to_numpy() for name in ("width", "height")]
    return float(np.median(np.minimum(*sides))) if len(sides[0]) else 0.0


def _decide_balance(ledger: Ledger, pool: Rows, vectors: Embeddings, row_of: Rows, config: BalanceConfig) -> pa.Table:
    """Cluster what is left, and leave out what is over its cluster's share; returns the clusters' sizes."""
    left = pool[ledger.open()[pool]]
    if not config.levels or not len(left):
        return CLUSTERS_SCHEMA.empty_table()
    clusters = cluster(vectors, row_of[left], config)
    ledger.cluster[left] = clusters[0]
    chosen = np.ones(len(left), dtype=np.bool_)
    if config.target is not None:
        chosen = share_out(clusters, config.target, config.seed)
        out = left[~chosen]
        details = np.asarray([f"cluster {number} is over its share" for number in clusters[0][~chosen]], dtype=object)
        ledger.decide(out, Fate.BALANCED_OUT, "over_its_share", details)
    return cluster_table(clusters, chosen)


def _require_some(ledger: Ledger, pool: Rows) -> None:
    if (ledger.fate[pool] == Fate.KEPT.value).any():
        return
    counts = Counter(ledger.fate[pool].tolist())
    raise InputError(
        "Nothing of the pool would be kept.",
        found=", ".join(f"{count:,} {fate}" for fate, count in sorted(counts.items())),
        expected="at least one image",
        action="give seeds that look like what the pool holds, or lower curation.retrieval's demands",
    )


def _at(column: pa.ChunkedArray, rows: Rows) -> npt.NDArray[Any]:
    return np.asarray(column.take(pa.array(rows)).to_pylist(), dtype=object)


def _or_null(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind, mask=values < 0)
