"""Contracts on what curation hands on: catalog validators that hold a handle's tables against their suites.

A catalog entry names one under ``validator:``; Kedro calls it before the handle is saved, so that nothing that breaks
its contract is ever handed on.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dinomill.curation.embedding.embed import Embeddings
from dinomill.curation.gates.rules import manifest_rules
from dinomill.curation.gates.suites import embeddings_suite, manifest_suite
from dinomill.curation.handles import EmbeddingsHandle
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import Fate
from dinomill.quality.contract import Contract
from dinomill.quality.counting import count_broken, count_repeated, sample_rows
from dinomill.quality.gate import check_table
from dinomill.quality.suites import summary_suite

_MANIFEST_COLUMNS = ["source", "path", "sha256", "fate", "reason", "shard", "offset", "length"]


class ManifestContract(Contract):
    """Every file has a fate, what is kept can be found, and the counts agree."""

    def validate(self, dataset: DatasetHandle) -> DatasetHandle:
        """Return the handle.

        Raises:
            QualityError: When the manifest does not meet its suite.
        """
        table, total = sample_rows(dataset.manifest, _MANIFEST_COLUMNS, self.config.sample_above)
        rows = table.to_pandas()
        rows["kept"] = rows["fate"] == Fate.KEPT.value
        if len(rows) < total:
            self._count(dataset)
        check_table("manifest", rows, manifest_suite(), self.config, folder=self.folder, work=self.work, total=total)
        return dataset

    def _count(self, dataset: DatasetHandle) -> None:
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
        check_table(
            "manifest_summary",
            counts,
            summary_suite(),
            self.config,
            folder=self.folder,
            work=self.work,
            index=("rule", "examples"),
        )


class EmbeddingsContract(Contract):
    """Every embedding is finite, of length one, and no constant."""

    def validate(self, embeddings: EmbeddingsHandle) -> EmbeddingsHandle:
        """Return the handle.

        Raises:
            QualityError: When an embedding is none.
        """
        import pandas as pd

        features = Embeddings(embeddings.shards)
        row = self.sample(len(features))
        norm, finite, spread = np.empty(len(row)), np.empty(len(row), dtype=np.bool_), np.empty(len(row))
        for start in range(0, len(row), 16_384):
            piece = slice(start, start + 16_384)
            some = features.stored(row[piece])
            norm[piece] = np.linalg.norm(some, axis=1)
            finite[piece] = np.isfinite(some).all(axis=1)
            spread[piece] = some.std(axis=1)
        rows = pd.DataFrame({"row": row, "norm": norm, "finite": finite, "spread": spread})
        check_table(
            "embeddings",
            rows,
            embeddings_suite(),
            self.config,
            folder=self.folder,
            work=self.work,
            index=("row",),
            total=len(features),
        )
        return embeddings
