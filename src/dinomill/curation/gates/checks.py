"""The gates of this stage: what its steps made, loaded and held against its suite before a handle is saved.

Each writes beside what it looked at, into the folder of its own step: ``<folder>/<suite>.json``. Data Docs carry the
time of their check, so they lie in the stage's work folder, all together; the first gate of a run empties it, because
what earlier runs found is no longer true.

<work>/quality/docs/index.html
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dinomill.curation.embedding.embed import Embeddings
from dinomill.curation.gates.rules import files_rules, manifest_rules
from dinomill.curation.gates.suites import embeddings_suite, files_suite, manifest_suite
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.preflight import EMPTY_TILE
from dinomill.curation.scan.scan import ScanConfig
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import Fate
from dinomill.images.withdrawn import WITHDRAWN
from dinomill.quality.counting import count_broken, count_repeated, sample_numbers, sample_rows
from dinomill.quality.gate import GateConfig, check_table
from dinomill.quality.handle import QualityHandle
from dinomill.quality.suites import summary_suite
from dinomill.storage.atomic import fresh_folder

if TYPE_CHECKING:
    import pandas as pd

_FILES_COLUMNS = [
    "candidate",
    "source",
    "path",
    "reason",
    "sha256",
    "pixels",
    "width",
    "height",
    "brightness",
    "entropy",
    "channels",
]
_MANIFEST_COLUMNS = ["source", "path", "sha256", "fate", "reason", "shard", "offset", "length"]
_DOCS = "quality"
_SUMMARY_INDEX = ("rule", "examples")
_PIECE = 16_384  # embeddings in memory at once


def _looking(folder: Path, work: Path) -> partial[QualityHandle]:
    """The check of a table, with the places where all of this stage's write."""
    return partial(check_table, folder=folder, work=work, docs=work / _DOCS)


def check_files(
    scan: ScanHandle, config: GateConfig, scan_config: ScanConfig, *, folder: Path, work: Path
) -> QualityHandle:
    """The scan of the pool: every file readable or with a reason, and not too many of the latter.

    Raises:
        QualityError: When an expectation fails, with the rows.
    """
    look = _looking(folder, work)
    # Nothing is wrong with a part of a picture that shows nothing, nor with what must not be used.
    empty = pc.coalesce(pc.field("reason"), pc.scalar("")).isin([EMPTY_TILE, WITHDRAWN])
    candidate = pc.field("candidate") & ~empty
    table, total = sample_rows(scan.files, _FILES_COLUMNS, config.sample_above, candidate)
    rows = table.to_pandas()
    rows["usable"] = rows.pop("reason").isna()
    for place in (folder, work / "gx", work / _DOCS):
        fresh_folder(place)
    if len(rows) < total:
        counts = count_broken(scan.files, files_rules(scan_config.preflight.min_side), candidate)
        look("files_summary", counts, summary_suite(), config, index=_SUMMARY_INDEX)
    suite = files_suite(scan_config.preflight, scan_config.max_bad_fraction)
    return look("files", rows, suite, config, total=total)


def check_embeddings(embeddings: EmbeddingsHandle, config: GateConfig, *, folder: Path, work: Path) -> QualityHandle:
    """Every embedding is finite, of length one, and no constant.

    Raises:
        QualityError: When an embedding is none, with its row.
    """
    import pandas as pd

    features = Embeddings(embeddings.shards)
    row = sample_numbers(len(features), config.sample_above)
    norm, finite, spread = np.empty(len(row)), np.empty(len(row), dtype=np.bool_), np.empty(len(row))
    for start in range(0, len(row), _PIECE):
        piece = slice(start, start + _PIECE)
        some = features.stored(row[piece])
        norm[piece] = np.linalg.norm(some, axis=1)
        finite[piece] = np.isfinite(some).all(axis=1)
        spread[piece] = some.std(axis=1)
    rows = pd.DataFrame({"row": row, "norm": norm, "finite": finite, "spread": spread})
    look, total = _looking(folder, work), len(features)
    return look("embeddings", rows, embeddings_suite(), config, index=("row",), total=total)


def check_manifest(dataset: DatasetHandle, config: GateConfig, *, folder: Path, work: Path) -> QualityHandle:
    """Every file has a fate, what is kept can be found, and the counts agree.

    Raises:
        QualityError: When the manifest does not meet its suite, with the rows.
    """
    look = _looking(folder, work)
    table, total = sample_rows(dataset.manifest, _MANIFEST_COLUMNS, config.sample_above)
    rows = table.to_pandas()
    rows["kept"] = rows["fate"] == Fate.KEPT.value
    if len(rows) < total:
        counts = _manifest_counts(dataset)
        look("manifest_summary", counts, summary_suite(), config, index=_SUMMARY_INDEX)
    return look("manifest", rows, manifest_suite(), config, total=total)


def _manifest_counts(dataset: DatasetHandle) -> pd.DataFrame:
    """What a sample cannot show: that no row of all breaks a rule, and that the handle's counts are the table's."""
    counts = count_broken(dataset.manifest, manifest_rules())
    kept = pc.field("fate") == Fate.KEPT.value
    counts.loc[len(counts)] = count_repeated(dataset.manifest, kept)
    table = ds.dataset(dataset.manifest, format="parquet")
    for name, told, found in (
        ("files", dataset.pool_images, table.count_rows()),
        ("kept images", dataset.images, table.count_rows(filter=kept)),
    ):
        counts.loc[len(counts)] = (f"{name} that the handle and the table disagree on", abs(told - found), "")
    return counts
