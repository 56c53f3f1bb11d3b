"""Curation in MLflow: how many files had which fate as metrics, the page as an artifact, the dataset by its hash."""

from __future__ import annotations

from dinomill.curation.page.report import PAGE
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import Fate
from dinomill.tracking import Run


def record(run: Run, dataset: DatasetHandle) -> None:
    """Write a curated dataset to its stage's run."""
    if not run.writes:
        return
    shares = {f"share/{fate.value}": dataset.fates.get(fate.value, 0) / max(dataset.pool_images, 1) for fate in Fate}
    counts = {f"files/{fate.value}": float(dataset.fates.get(fate.value, 0)) for fate in Fate}
    run.log_metrics({"files/all": float(dataset.pool_images), **counts, **shares})
    run.log_dataset("curated", dataset.manifest_sha256, str(dataset.folder), context="curation", rows=dataset.images)
    run.log_artifacts(dataset.folder / PAGE)
