"""MLflow's SQLite file, made whole or not at all.

MLflow makes its tables by some forty migrations, of which each is kept as it is done: a process killed among them
leaves a file that no later start accepts (mlflow#23721). Here they run on a file of another name, renamed at the end.

    <folder>/mlflow.db                the database
    <folder>/mlflow.db.unfinished-N   what a killed process of another program left, set aside when nothing is in it
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote

from dinomill.errors import InputError
from dinomill.storage.processes import runs

# A table that a migration copies into; it is renamed at its end.
_ABANDONED = 300.0  # seconds without a change
_UNDER_WAY = "_alembic_tmp_%"


def prepare(database: Path) -> None:
    """Make the database where there is none, or one that was never finished and holds nothing.

    Raises:
        InputError: When its path cannot be said in an address of MLflow's.
    """
    _check_path(database)
    _sweep(database)
    if database.exists():
        if not unfinished(database):
            return
        _set_aside(database)
    temporary = database.with_name(f".{database.name}.{os.getpid()}.making")
    _remove(temporary)  # a killed process may have had this number
    try:
        _make(temporary)
        # Two processes may have made one: the first one's stays. Where links are not known, a rename has to do.
        with suppress(FileExistsError):
            try:
                os.link(temporary, database)
            except PermissionError:
                temporary.rename(database)
    finally:
        _remove(temporary)


def read_only(database: Path) -> sqlite3.Connection:
    """A connection that makes and changes nothing, wherever the file lies: SQLite would end a bare path at ``#``."""
    return sqlite3.connect(database.absolute().as_uri() + "?mode=ro", uri=True)


def _check_path(database: Path) -> None:
    # SQLAlchemy, by which MLflow opens it, ends the path at `?`, and takes `%41` for `A`: it would be another file.
    path = str(database)
    if "?" in path or unquote(path) != path:
        raise InputError(
            f"A tracking database cannot lie at {database}.",
            found="a `?`" if "?" in path else "a `%` with two digits",
            expected="a path without either: an address of MLflow's cannot name it",
            action="rename the folder, or point `tracking_uri` in conf/…/globals.yml at another place",
        )


def _remove(temporary: Path) -> None:
    for leftover in temporary.parent.glob(f"{temporary.name}*"):
        leftover.unlink(missing_ok=True)


def _sweep(database: Path) -> None:
    """Remove what killed processes of this machine were making."""
    for path in database.parent.glob(f".{database.name}.*.making*"):
        number = path.name.removeprefix(f".{database.name}.").partition(".")[0]
        with suppress(OSError, ValueError):
            # On a shared disk it may be another machine's process: what is at work there is younger.
            if time.time() - path.stat().st_mtime > _ABANDONED and not runs(int(number)):
                path.unlink()


def unfinished(database: Path) -> bool:
    """Whether the migrations ended in the middle and no run was ever kept."""
    try:
        with closing(read_only(database)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            under_way = bool(
                connection.execute("select 1 from sqlite_master where name like ?", [_UNDER_WAY]).fetchone()
            )
            if "alembic_version" in tables and not under_way:
                return False
            return "runs" not in tables or connection.execute("select 1 from runs limit 1").fetchone() is None
    except sqlite3.Error:
        return False  # no database, or locked: MLflow's own message says it


def _make(path: Path) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")  # type: ignore[no-untyped-call]
    try:
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()


def _set_aside(database: Path) -> None:
    number = 1
    while (aside := database.with_name(f"{database.name}.unfinished-{number}")).exists():
        number += 1
    database.rename(aside)
    for name in ("-journal", "-wal", "-shm"):
        database.with_name(database.name + name).unlink(missing_ok=True)
