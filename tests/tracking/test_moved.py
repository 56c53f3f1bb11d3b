"""A project that was moved or copied keeps its runs and models; nothing of the original is touched."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from dinomill.errors import InputError, MachineError
from dinomill.tracking import download, open_run
from dinomill.tracking.moved import follow
from tests.exported import registered


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `data` with a registered version in its database."""
    data = tmp_path_factory.mktemp("project") / "data"
    registered(data)
    return data


def _store(data: Path) -> str:
    return f"sqlite:///{data}/mlflow/mlflow.db"


def test_a_moved_project_loads_its_registered_model(original: Path, tmp_path: Path) -> None:
    """It was told to delete its database."""
    data = tmp_path / "a place/über" / "data"
    data.parent.mkdir(parents=True)
    shutil.copytree(original, tmp_path / "here")
    (tmp_path / "here").rename(data)
    # The original is out of reach, as it is after a move.
    hidden = original.with_name("hidden")
    original.rename(hidden)
    try:
        found = download("models:/backbone@champion", _store(data))
        assert found.is_relative_to(data)
        assert (found / "model.safetensors").is_file()
        with open_run("curation", tracking_uri=_store(data), experiment="own runs") as run:
            run.log_artifacts(found / "config.json")
        assert list((data / "mlflow/artifacts/own-runs").glob("*/artifacts/config.json"))
        assert not original.exists()
        from mlflow import pyfunc

        assert pyfunc.load_model("models:/backbone@champion").predict(_example()).shape == (1, 64)
        assert follow(data / "mlflow/mlflow.db") == 0
    finally:
        hidden.rename(original)


def test_a_copy_has_its_own_and_the_original_stays(original: Path, tmp_path: Path) -> None:
    before = (original / "mlflow/mlflow.db").read_bytes()
    shutil.copytree(original, tmp_path / "data")
    assert download("models:/backbone@champion", _store(tmp_path / "data")).is_relative_to(tmp_path)
    assert (original / "mlflow/mlflow.db").read_bytes() == before
    assert download("models:/backbone@champion", _store(original)).is_relative_to(original)


def test_what_may_not_be_written_is_read_where_it_lies_now(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only file system the addresses in the database stay as they were."""
    monkeypatch.setattr("dinomill.tracking.connection.follow", lambda database: 0)
    shutil.copytree(original, tmp_path / "data")
    hidden = original.with_name("hidden")
    original.rename(hidden)
    try:
        assert download("models:/backbone@champion", _store(tmp_path / "data")).is_relative_to(tmp_path)
    finally:
        hidden.rename(original)


def test_the_database_alone_is_refused_with_what_is_missing(original: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow").mkdir()
    shutil.copy(original / "mlflow/mlflow.db", tmp_path / "mlflow")
    with pytest.raises(MachineError, match="a copy without its artifacts") as caught:
        download("models:/backbone@champion", _store(tmp_path))
    assert f"copy {original / 'mlflow/artifacts'} to {tmp_path / 'mlflow'}" in str(caught.value)


def test_another_name_of_the_same_folder_changes_nothing(original: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(original)
    before = (original / "mlflow/mlflow.db").read_bytes()
    assert download("models:/backbone@champion", _store(tmp_path / "link")).is_dir()
    assert (original / "mlflow/mlflow.db").read_bytes() == before


def test_folders_of_the_users_own_choice_stay(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "data")
    database = tmp_path / "data/mlflow/mlflow.db"
    chosen = tmp_path / "big/artifacts/theirs"
    chosen.mkdir(parents=True)
    kept = [chosen.as_uri(), "s3://bucket/artifacts/theirs", "mlflow-artifacts:/artifacts/1"]
    with sqlite3.connect(database) as connection:
        for number, location in enumerate(kept):
            connection.execute(
                "insert into experiments (name, artifact_location, lifecycle_stage) values (?, ?, 'active')",
                [f"theirs {number}", location],
            )
    assert follow(database) > 0
    with sqlite3.connect(database) as connection:
        found = [row[0] for row in connection.execute("select artifact_location from experiments")]
    assert set(kept) < set(found)
    assert (tmp_path / "data/mlflow/artifacts/own-runs").as_uri() in found


def test_a_registry_named_by_a_project_is_found_from_below_it(
    original: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models:/…` asked the database below the working directory, whatever `tracking_uri` said."""
    from dinomill.tracking import store_at_work

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    address = "models:/backbone@champion"
    (project / "conf/mine").mkdir()
    (project / "conf/mine/globals.yml").write_text(f"tracking_uri: {_store(original)}\n", encoding="utf-8")
    below = project / "notebooks/deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with pytest.raises(MachineError, match="There is no tracking database") as caught:
        download(address)
    assert f"{project}/data/mlflow/mlflow.db" in str(caught.value)
    with store_at_work("mine"):
        assert download(address).is_dir()
    (project / "conf/local/globals.yml").write_text("tracking_uri: sqlite:///elsewhere/m.db\n", encoding="utf-8")
    with pytest.raises(MachineError) as caught:
        download(address)
    assert f"{project}/elsewhere/m.db" in str(caught.value)  # from the project's root, not from here
    shutil.copytree(original / "mlflow", project / "elsewhere")
    (project / "elsewhere/mlflow.db").rename(project / "elsewhere/m.db")
    assert download(address).is_relative_to(project / "elsewhere")
    monkeypatch.chdir(project.parent)
    with pytest.raises(MachineError, match="set MLFLOW_TRACKING_URI"):
        download(address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _store(original))
    assert download(address).is_dir()


@pytest.mark.parametrize("verb", ["embed", "search", "export", "weights"])
def test_every_verb_that_takes_an_address_asks_its_environment(
    original: Path, project: Path, monkeypatch: pytest.MonkeyPatch, verb: str, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from dinomill.commands.app import app

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (project / "conf/mine").mkdir()
    (project / "conf/mine/globals.yml").write_text(f"tracking_uri: {_store(original)}\n", encoding="utf-8")
    below = project / "notebooks"
    below.mkdir()
    monkeypatch.chdir(below)
    (below / "a.png").write_bytes(_example()["image"][0])
    address = "models:/backbone@champion"
    made = tmp_path / "index.npy"
    embed = ["embed", "a.png", "-o", str(made), "-m", address, "--env", "mine"]
    arguments = {
        "embed": embed,
        "search": ["search", "a.png", str(made), "--env", "mine"],
        "export": ["export", "safetensors", str(tmp_path / "x.safetensors"), "-m", address, "--env", "mine"],
        "weights": ["weights", address, "--env", "mine"],
    }[verb]
    if verb == "search":
        assert CliRunner().invoke(app, embed).exit_code == 0
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + str(done.exception)
    with pytest.raises((MachineError, InputError)):  # which the base's registry does not know
        CliRunner().invoke(app, [*arguments[:-2]], catch_exceptions=False)


def _example() -> dict[str, list[bytes]]:
    import io

    import pandas as pd
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 90)).save(buffer, "PNG")
    return pd.DataFrame({"image": [buffer.getvalue()]})  # type: ignore[return-value]
