"""The project used from where it does not lie: a notebook in a sub-folder, Airflow, `--project`, the package alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io.core import DatasetError

from dinomill.handles import ModelHandle, StudentsHandle
from tests.commands.programs import SMALL, run
from tests.conftest import PROJECT


@pytest.fixture
def small(project: Path) -> Path:
    (project / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    path = project / "conf/base/sample/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["sample"] |= SMALL
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    pool = ["data/01_raw/sample/pool", {"path": "data/01_raw/sample/seeds", "tiles": {"side": 16}}]
    (project / "conf/local/globals.yml").write_text(yaml.safe_dump({"pool": pool}), encoding="utf-8")
    (project / "notebooks").mkdir()
    return project


@pytest.mark.parametrize("where", ["project/notebooks", "elsewhere"])
def test_a_session_runs_and_its_catalog_is_read_from_anywhere(
    small: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Paths started at the working directory: results lay in the notebook's folder, or nothing was found."""
    here = small.parent / where
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    bootstrap_project(small)
    with KedroSession.create(project_path=small) as session:
        session.run(pipeline_names=["sample"])
    assert Path.cwd() == here and not list(here.iterdir())
    with KedroSession.create(project_path=small) as session:
        catalog = session.load_context().catalog
        handle = catalog.load("sample")
        assert (handle.folder / "pool").is_dir() and handle.folder == small / "data/01_raw/sample"
        assert Path(catalog.load("labelled")).is_dir()
        raw = small / "data/01_raw/sample"
        assert catalog.load("pool") == [str(raw / "pool"), {"path": str(raw / "seeds"), "tiles": {"side": 16}}]
        with pytest.raises(DatasetError, match="There is no"):
            catalog.load("curated")
    # What lies on disk is the same as ever: relative to the root.
    assert '"folder": "data/01_raw/sample"' in (small / "data/01_raw/sample/handle.json").read_text()


def test_a_run_that_fails_leaves_the_working_directory_as_it_was(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small / "notebooks")
    bootstrap_project(small)
    with KedroSession.create(project_path=small) as session, pytest.raises(Exception, match="pool"):
        session.run(pipeline_names=["curation"])
    assert Path.cwd() == small / "notebooks"


def test_a_handles_paths_may_be_made_absolute(tmp_path: Path) -> None:
    student = {"folder": "s/a", "made_of": "0", "name": "a", "weights_sha256": "x", "dataset_sha256": "d"}
    student |= dict.fromkeys(("parameters", "embed_dim", "image_size", "images_seen", "steps"), 0)
    model = ModelHandle.model_validate(student | {"mean": [0.5], "std": [0.5], "history": "s/a/history.parquet"})
    handle = StudentsHandle(folder=Path("s"), made_of="0", students={"a": model}, champion="a").below(tmp_path)
    assert handle.folder == tmp_path / "s"
    assert handle.students["a"].history == tmp_path / "s/a/history.parquet"
    assert handle.below(Path("/other")) == handle  # they are absolute already


def test_the_commands_take_the_project_from_elsewhere(small: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = [sys.executable, "-m", "dinomill"]
    said = run(elsewhere, *python, "--project", str(small / "notebooks"), "--pipelines", "sample")
    assert "results in data/01_raw/sample" in said and "INFO" not in said
    assert "No stage has run yet" in run(elsewhere, "dinomill", "--project", str(small), "summary")
    assert "sample:" in run(small / "notebooks", "kedro", "run", "--pipelines", "sample")
    for command in (["dinomill", "--project", str(elsewhere), "summary"], [*python, "--project", str(elsewhere)]):
        shown = run(elsewhere, *command, code=1)
        assert "elsewhere is" in shown and "Traceback" not in shown
    assert not list(elsewhere.iterdir())


def test_the_package_runs_with_nothing_but_its_configuration(small: Path, tmp_path: Path) -> None:
    """The wheel had no `__main__`."""
    alone = tmp_path / "alone"
    shutil.copytree(small / "conf", alone / "conf")
    (alone / "data").mkdir()
    (alone / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    command = [sys.executable, "-m", "dinomill", "--conf-source", "conf", "--pipelines", "sample"]
    assert "results in data/01_raw/sample" in run(alone, *command)
    assert (alone / "data/01_raw/sample/handle.json").is_file()
