"""Contracts on what curation hands on: catalog validators that hold a handle's tables against their suites.

A catalog entry names one under ``validator:``; Kedro calls it before the handle is saved, so that nothing that breaks
its contract is ever handed on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dinomill.curation.embed import Embeddings
from dinomill.curation.gate import GateConfig, check_table
from dinomill.curation.handles import EmbeddingsHandle
from dinomill.curation.suites import embeddings_suite, evaluation_suite, manifest_suite, summary_suite
from dinomill.curation.summaries import count_broken, count_repeated, manifest_rules, sample_rows
from dinomill.curation.tables import fresh_folder
from dinomill.handles import DatasetHandle, EvaluationHandle
from dinomill.images.manifest import Fate

_MANIFEST_COLUMNS = ["source", "path", "sha256", "fate", "reason", "shard", "offset", "length"]


class Contract:
    """Where a contract writes what it found.

    Args:
        quality: The folder of the quality gates' results.
        work: Where Great Expectations keeps its files.
        sample_above: Rows; of a longer table a seeded sample of so many is looked at.
        docs: Build Data Docs.
    """

    def __init__(self, quality: str, work: str, sample_above: int = 200_000, docs: bool = True) -> None:
        self.folder, self.work = Path(quality), Path(work)
        self.config = GateConfig(sample_above=sample_above, docs=docs)

    def sample(self, total: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The rows of a table that are looked at: all, or a seeded sample, in order."""
        if total <= self.config.sample_above:
            return np.arange(total)
        return np.sort(np.random.default_rng(0).choice(total, self.config.sample_above, replace=False))


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


class EvaluationContract(Contract):
    """Every score is a fraction, and every model has one row; without labelled images there is no table."""

    def validate(self, evaluation: EvaluationHandle) -> EvaluationHandle:
        """Return the handle.

        Raises:
            QualityError: When the table of scores does not meet its suite.
        """
        import pandas as pd

        if not evaluation.bank_images:
            return evaluation
        fresh_folder(self.folder)  # the only gate that writes here
        columns = ("model", "kind", "knn", "linear")
        values = [[getattr(score, name) for name in columns] for score in evaluation.scores]
        rows = pd.DataFrame(values, columns=list(columns))
        suite = evaluation_suite()
        check_table("evaluation", rows, suite, self.config, folder=self.folder, work=self.work, index=("model",))
        return evaluation
