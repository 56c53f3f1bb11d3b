"""Curation in MLflow: how many files had which fate as metrics, the page as an artifact, the dataset by its hash."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dinomill.curation.page.report import PAGE
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import Fate
from dinomill.tracking import Run


def record(run: Run, dataset: DatasetHandle, work: Mapping[str, Mapping[str, int]] = MappingProxyType({})) -> None:
    """Write a curated dataset to its stage's run.

    Args:
        run: The run.
        dataset: What was curated.
        work: By step, how much was done and how much taken over from before.
    """
    if not run.writes:
        return
    shares = {f"share/{fate.value}": dataset.fates.get(fate.value, 0) / max(dataset.pool_images, 1) for fate in Fate}
    counts = {f"files/{fate.value}": float(dataset.fates.get(fate.value, 0)) for fate in Fate}
    done = {f"work/{step}/{what}": float(count) for step, some in work.items() for what, count in some.items()}
    run.log_metrics({"files/all": float(dataset.pool_images), **counts, **shares, **done})
    run.log_dataset("curated", dataset.manifest_sha256, str(dataset.folder), context="curation", rows=dataset.images)
    run.log_artifacts(dataset.folder / PAGE)
    run.rename(f"curation · {dataset.images:,} kept of {dataset.pool_images:,} files")
