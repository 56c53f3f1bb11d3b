"""Curation's MLflow run in a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.curation.record import record
from dinomill.handles import DatasetHandle
from dinomill.tracking import Run, open_run


def _dataset(folder: Path) -> DatasetHandle:
    return DatasetHandle(
        folder=folder,
        made_of="0" * 64,
        manifest=folder / "manifest.parquet",
        manifest_sha256="ab" * 32,
        shards=(),
        images=6,
        pool_images=8,
        fates={"kept": 6, "quarantined": 2},
        channels=3,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        embedder="n",
        sources=("pool",),
    )


def test_the_page_the_counts_and_the_dataset_are_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # MLflow's default folder of artifacts lies beside its database
    (tmp_path / "curation.html").write_text("<p>where they went</p>")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with open_run("curation", tracking_uri=uri) as run:
        record(run, _dataset(tmp_path))
    client = MlflowClient(run.tracking_uri)
    found = client.get_run(str(run.run_id))
    assert found.data.metrics["files/kept"] == 6 and found.data.metrics["files/all"] == 8
    assert found.data.metrics["share/quarantined"] == 0.25 and found.data.metrics["files/irrelevant"] == 0
    assert [item.path for item in client.list_artifacts(str(run.run_id))] == ["curation.html"]
    page = Path(client.download_artifacts(str(run.run_id), "curation.html", str(tmp_path)))
    assert page.read_text() == "<p>where they went</p>"
    (given,) = found.inputs.dataset_inputs
    assert given.dataset.name == "curated" and given.dataset.digest == ("ab" * 18)


def test_without_a_run_nothing_is_written_or_asked_for(tmp_path: Path) -> None:
    record(Run(None, None, ""), _dataset(tmp_path))  # there is no page either: asking for it would fail
    assert list(tmp_path.iterdir()) == []
