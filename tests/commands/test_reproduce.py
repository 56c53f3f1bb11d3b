"""`dinomill reproduce` from end to end: a small version trained, registered and made again, here and as elsewhere."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
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

    laid(digits_dataset, project, Path("data/05_model_input/curated"))
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    run(project, "kedro", "run", "--pipelines", "pretraining")
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(project)
    registered(ModelHandle.load(Path("data/06_models/teacher")), digits_dataset)
    return project


def laid(dataset: DatasetHandle, project: Path, curated: Path) -> None:
    """A dataset as curation leaves it in a project."""
    shutil.copytree(dataset.folder, project / curated)
    shards = tuple(curated / "shards" / path.name for path in dataset.shards)
    moved = {"folder": curated, "manifest": curated / "manifest.parquet", "shards": shards}
    dataset.model_copy(update=moved).save(project / curated)


def registered(teacher: ModelHandle, dataset: DatasetHandle, **more: str) -> None:
    """What the registration stage writes down of a teacher that matters here."""
    store = tracking.current_store()
    tags = {
        "network": "teacher",
        "model": teacher.name,
        tracking.WEIGHTS_TAG: teacher.weights_sha256,
        tracking.DATASET_TAG: dataset.manifest_sha256,
        "training_run": tracking.run_that_made(store, teacher.name, teacher.weights_sha256) or "",
        "git_commit": tracking.git_commit() or "",
        **more,
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


@pytest.fixture
def of_an_environment(version: Path, digits_dataset: DatasetHandle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 2: trained from version 1, in an environment that no branch has any more, its data in another place."""
    store, curated = tracking.current_store(), Path("data/mine/05_model_input/curated")
    (version / "conf/mine").mkdir()
    values = {"model": "from_weights", "initial": "models:/dinomill-backbone@champion"}
    (version / "conf/mine/parameters.yml").write_text(yaml.safe_dump({"pretraining": values}), encoding="utf-8")
    (version / "conf/mine/globals.yml").write_text("{data: data/mine, work: data/work/mine}\n", encoding="utf-8")
    run(version, "dvc", "init", "--quiet")
    commit(version)
    laid(digits_dataset, version, curated)
    tracking.set_alias(store, "dinomill-backbone", "champion", 1)
    monkeypatch.setenv("PYTHONPATH", str(version / "src"))
    run(version, "kedro", "run", "--env", "mine", "--pipelines", "pretraining")
    monkeypatch.delenv("PYTHONPATH")
    teacher = ModelHandle.load(Path("data/mine/06_models/teacher"))
    named = in_the_cache(version, digits_dataset)
    registered(teacher, digits_dataset, initial_sha256=str(teacher.initial_sha256), dvc_curated=named)
    tracking.set_alias(store, "dinomill-backbone", "champion", 2)
    shutil.rmtree(version / "conf/mine")
    commit(version)
    shutil.rmtree(version / "data/mine")
    return version


def in_the_cache(project: Path, dataset: DatasetHandle) -> str:
    """Let DVC have a dataset, as after `dvc repro` where `data` lay elsewhere; its name of it."""
    aside, elsewhere = project.parent / "aside", Path("data/elsewhere/curated")
    laid(dataset, aside, elsewhere)
    (aside / elsewhere).rename(aside / "curated")
    run(aside, "dvc", "init", "--no-scm", "--quiet")
    run(aside, "dvc", "cache", "dir", str(project / ".dvc/cache"))
    run(aside, "dvc", "add", "--quiet", "curated")
    (out,) = yaml.safe_load((aside / "curated.dvc").read_text(encoding="utf-8"))["outs"]
    return str(out["md5"])


def test_what_it_was_made_from_is_found_and_nothing_is_written_to_the_teams_store(
    of_an_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alias has moved, data lay elsewhere, the environment is gone; a result that differs ended in an error."""
    database = of_an_environment / "data/mlflow/mlflow.db"
    before = runs(database)
    shown = run(of_an_environment, "dinomill", "reproduce", "2", "--into", str(tmp_path / "again"))
    assert "the same weights, bit for bit" in shown
    assert "models:/dinomill-backbone/1, which models:/dinomill-backbone@champion meant then" in shown
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    shown = run(of_an_environment, "dinomill", "reproduce", "2", "--into", str(tmp_path / "other"), code=1)
    assert "processor: " in shown and "AVX2" in shown
    assert runs(database) == before and runs(tmp_path / "other/data/mlflow/mlflow.db") == 2  # a stage and its start


def runs(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("select count(*) from runs").fetchone()[0])
