"""A database that was being made when its process was killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinomill.errors import InputError
from dinomill.tracking import download, open_run, versions
from dinomill.tracking.connection import connect
from dinomill.tracking.database import prepare, unfinished
from dinomill.tracking.store import holds
from tests.exported import registered


def test_a_database_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed at any time of the making, the same command works again; that left `_alembic_tmp_runs` for ever."""
    database = tmp_path / "mlflow.db"
    code = (
        f"from pathlib import Path; from dinomill.tracking.connection import connect; connect('sqlite:///{database}')"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and not list(tmp_path.glob(".mlflow.db.*")):
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not database.exists() or not unfinished(database)
    store = f"sqlite:///{database}"
    with open_run("curation", tracking_uri=store) as run:
        assert run.run_id is not None


def test_what_was_left_unfinished_and_empty_is_set_aside(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table runs (run_uuid text)")
        connection.execute("create table _alembic_tmp_runs (run_uuid text)")
    assert unfinished(database)
    with open_run("curation", tracking_uri=f"sqlite:///{database}") as run:
        assert run.run_id is not None
    assert [path.name for path in tmp_path.glob("*.unfinished-*")] == ["mlflow.db.unfinished-1"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_database_with_runs_is_never_touched(tmp_path: Path, broken: bool) -> None:
    database = tmp_path / "mlflow.db"
    connect(f"sqlite:///{database}")
    with sqlite3.connect(database) as connection:
        if broken:
            connection.execute("create table _alembic_tmp_runs (run_uuid text)")
        connection.execute("insert into runs (run_uuid, name, experiment_id) values ('a', 'b', 0)")
    before = database.read_bytes()
    prepare(database)
    assert database.read_bytes() == before
    assert not list(tmp_path.glob("*.unfinished-*"))


def test_what_is_no_database_is_left_to_the_message(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_text("notes", encoding="utf-8")
    assert not unfinished(database)
    prepare(database)
    assert database.read_text(encoding="utf-8") == "notes"


def test_what_a_killed_process_was_making_is_swept(tmp_path: Path) -> None:
    """Some hundred kilobytes a kill stayed for ever."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    database = tmp_path / "mlflow.db"
    names = [f".mlflow.db.{gone.pid}.making", f".mlflow.db.{gone.pid}.making-journal"]
    young, ours = tmp_path / f".mlflow.db.{gone.pid}.making-wal", tmp_path / f".mlflow.db.{os.getpid()}.making"
    for path in (*(tmp_path / name for name in names), young, ours):
        path.write_bytes(b"half")
        if path != young:
            os.utime(path, (0, 0))
    connect(f"sqlite:///{database}")
    assert not [name for name in names if (tmp_path / name).exists()]
    assert young.exists()


def test_first_runs_at_once_share_one_database(tmp_path: Path) -> None:
    code = (
        "import sys; from dinomill.tracking import open_run\n"
        f"with open_run('curation', tracking_uri='sqlite:///{tmp_path}/mlflow.db') as run: print(run.run_id)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ids = {process.communicate(timeout=120)[0].strip() for process in both}
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert {row[0] for row in connection.execute("select run_uuid from runs")} == ids
    assert len(ids) == 2


@pytest.mark.parametrize("name", ["my#1", "100% sure", "über's"])
def test_a_database_below_a_folder_of_any_name_stays_where_it_is(tmp_path: Path, name: str) -> None:
    """SQLite ended a bare path at `#`: an empty file was made there, and the good database was set aside."""
    data = tmp_path / name / "data"
    store = registered(data)
    assert versions(store, "backbone")[0].aliases == ("champion",)
    assert holds(store, "backbone", 1)
    assert download("models:/backbone@champion", store).is_relative_to(data)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert not list(data.glob("mlflow/*.unfinished-*"))


@pytest.mark.parametrize("name", ["what?", "a%41"])
def test_a_path_that_mlflow_cannot_name_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="cannot lie at") as raised:
        connect(f"sqlite:///{tmp_path / name}/mlflow.db")
    assert "tracking_uri" in str(raised.value)
    assert [path.name for path in tmp_path.rglob("*")] == [name]
