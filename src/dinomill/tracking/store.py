"""Which MLflow store an address like ``models:/name@alias`` means, wherever a command was called.

In this order: ``MLFLOW_TRACKING_URI``; the store of the environment at work; the ``tracking_uri`` of the project
that the working directory lies in, at whatever depth; else a database below the working directory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path

from dinomill.layers import Layers
from dinomill.layers.project import project_above
from dinomill.tracking.at_work import environment
from dinomill.tracking.config import TrackingConfig
from dinomill.tracking.connection import database_path, registry_of, resolve_uri
from dinomill.tracking.database import read_only

_at_work: ContextVar[str | None] = ContextVar("store at work", default=None)


def current_store() -> str:
    """The store's URI; a SQLite path in it is absolute.

    Raises:
        ConfigError: When the project's configuration cannot be read.
    """
    if said := os.environ.get("MLFLOW_TRACKING_URI") or _at_work.get():
        return resolve_uri(said)
    root = project_above(Path.cwd())
    return resolve_uri(TrackingConfig().tracking_uri) if root is None else store_of(None, root)


def store_of(env: str | None, root: Path) -> str:
    """The store of a project's environment.

    Args:
        env: A folder of ``conf``; None: base with local.
        root: The project; a relative path of a database starts there.

    Raises:
        ConfigError: When there is no such environment, or its globals cannot be read.
    """
    said = Layers(env, conf=root / "conf").globals.get("tracking_uri") or TrackingConfig().tracking_uri
    return resolve_uri(str(said), root)


@contextmanager
def store_at_work(env: str | None = None, *, uri: str | None = None) -> Iterator[None]:
    """Within the block, registered models are those of an environment of the project around the working directory.

    Args:
        env: A folder of ``conf``; None: base with local.
        uri: Instead of what the environment says; without ``env``, the one at work stays as it was named.

    Raises:
        ConfigError: When there is no such environment.
    """
    said = (env,) if uri is None or env is not None else environment.get()
    if uri is None and (root := project_above(Path.cwd())) is not None:
        uri = store_of(env, root)
    token, named = _at_work.set(uri or _at_work.get()), environment.set(said)
    try:
        yield
    finally:
        environment.reset(named)
        _at_work.reset(token)


def holds(uri: str, name: str, version: int) -> bool | None:
    """Whether a store has a version of a model: told at once, without MLflow.

    Returns:
        None where it is not known: of a server, or of a database that cannot be read.
    """
    if (database := database_path(registry_of(uri))) is None:
        return None
    if not database.exists():
        return False
    asked = "select 1 from model_versions where name = ? and version = ? and current_stage != 'Deleted_Internal'"
    try:
        with closing(read_only(database)) as connection:
            return connection.execute(asked, [name, version]).fetchone() is not None
    except sqlite3.Error:
        return None
