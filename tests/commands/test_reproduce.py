"""`dinomill reproduce` from end to end: a small version trained, registered and made again, here and as elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from dinomill import tracking
from dinomill.handles import DatasetHandle, ModelHandle
from dinomill.registration.example import example_table
from tests.commands.programs import run
from tests.commands.test_experiments import commit
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def version(project: Path, digits_dataset: DatasetHandle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose version 1 was trained with a setting that is in no commit."""
    # Real folders: a clone has to hold the code.
    for name in ("src/dinomill", "pipelines", "pyproject.toml"):
        (project / name).unlink()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("src/dinomill", "pipelines"):
        shutil.copytree(PROJECT / name, project / name, symlinks=True, ignore=ignore)
    shutil.copy(PROJECT / "pyproject.toml", project)
    shutil.copy(PROJECT / ".gitignore", project)
    path = project / "conf/base/pretraining/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["pretraining"] |= {"steps": 8, "batch_size": 16, "launcher": {"kind": "inline", "threads": 1}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    path = project / "conf/base/globals.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(values | {"labelled": None, "seeds": None}), encoding="utf-8")
    run(project, "git", "init", "--quiet")
    commit(project)
    (project / "conf/local/parameters.yml").write_text("pretraining: {steps: 6}\n", encoding="utf-8")

    curated = Path("data/05_model_input/curated")
    shutil.copytree(digits_dataset.folder, project / curated)
    shards = tuple(curated / "shards" / path.name for path in digits_dataset.shards)
    moved = {"folder": curated, "manifest": curated / "manifest.parquet", "shards": shards}
    digits_dataset.model_copy(update=moved).save(project / curated)
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    run(project, "kedro", "run", "--pipelines", "pretraining")
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(project)
    registered(ModelHandle.load(Path("data/06_models/teacher")), digits_dataset)
    return project


def registered(teacher: ModelHandle, dataset: DatasetHandle) -> None:
    """What the registration stage writes down of a teacher that matters here."""
    store = tracking.current_store()
    tags = {
        "network": "teacher",
        "model": teacher.name,
        tracking.WEIGHTS_TAG: teacher.weights_sha256,
        tracking.DATASET_TAG: dataset.manifest_sha256,
        "training_run": tracking.run_that_made(store, teacher.name, teacher.weights_sha256) or "",
        "git_commit": tracking.git_commit() or "",
    }
    details = tracking.ModelCard(
        loader="dinomill.serving.pyfunc",
        example=example_table(len(teacher.mean), teacher.image_size),
        embed_dim=teacher.embed_dim,
        requirements=[],
        metrics={},
        tags=tags,
        description="",
        summary="",
    )
    with tracking.open_run("registration", tracking_uri=store) as opened:
        tracking.register(opened, "dinomill-backbone", teacher.folder, details)


def test_a_version_is_made_again_bit_for_bit_and_otherwise_the_difference_is_named(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = run(version, "dinomill", "reproduce", "1", "--into", str(tmp_path / "again"))
    assert "the same weights, bit for bit" in shown
    assert "pretraining.steps: 6 (the commit: 8)" in shown
    again = version.parent / "project-dinomill-backbone-1"
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    shown = run(version, "dinomill", "reproduce", "1", code=1)
    assert again.is_dir()
    assert "the cosine of embeddings is 0.9" in shown or "the cosine of embeddings is 1.0" in shown
    assert "processor: " in shown and "AVX2" in shown
    assert "is there already" in run(version, "dinomill", "reproduce", "1", code=1)
    assert "has no models:/dinomill-backbone/7" in run(version, "dinomill", "reproduce", "7", "--into", "b", code=1)
