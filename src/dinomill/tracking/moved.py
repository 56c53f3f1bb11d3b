"""A SQLite store that was moved or copied: MLflow keeps absolute addresses of artifacts, which follow it here.

    <folder>/mlflow.db        runs and models; addresses like file:///<folder>/artifacts/<experiment>/…
    <folder>/artifacts/       the files, one folder an experiment

Only addresses below the `artifacts` of another folder are changed, and only where the same experiment's files lie
beside the database (or no files were ever there to lose): an artifact folder of the user's own choice stays.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dinomill.errors import MachineError
from dinomill.tracking.database import read_only

log = logging.getLogger(__name__)

ARTIFACTS = "artifacts"
# Where MLflow keeps such addresses.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def follow(database: Path) -> int:
    """Point the addresses in a database that was moved or copied to where its artifacts lie now.

    All of them change in one transaction, or none. Where the database cannot be written, `relocated` does the same
    for each address that is read.

    Returns:
        How many addresses were changed.

    Raises:
        MachineError: When the database was copied without its artifacts, and they still lie where it was.
    """
    try:
        moves = _moves(database)
        if not moves:
            return 0
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            connection.execute("begin immediate")
            changed = sum(_change(connection, old, new) for old, new in moves.items())
    except sqlite3.Error as error:  # locked, read-only, no database at all: MLflow's own message says it
        log.debug("addresses of %s are as they were: %s", database, error)
        return 0
    log.warning("%s was moved or copied: %d addresses of artifacts in it were brought up to date.", database, changed)
    return changed


def relocated(path: Path, database: Path) -> Path:
    """Where an artifact lies now: the path, or the same beside the database where that was moved."""
    if path.exists():
        return path
    parts = path.parts
    for place in (index for index, part in enumerate(parts) if part == ARTIFACTS):
        here = database.parent.joinpath(*parts[place:])
        if here.exists():
            return here
    return path


def local_path(uri: str) -> Path | None:
    """The path of a ``file://`` URI or plain path, or None for a remote one."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if not parts.scheme else None


def _moves(database: Path) -> dict[str, str]:
    """From the address of an experiment's artifacts to what it should be, for those that lie elsewhere."""
    with closing(read_only(database)) as connection:
        if not _has(connection, "experiments", "artifact_location"):
            return {}
        locations = [str(row[0]) for row in connection.execute("select artifact_location from experiments")]
    moves = {}
    for location in locations:
        new = _moved_to(database, location)
        if new is not None and new != location:
            moves[location] = new
    return moves


def _moved_to(database: Path, location: str) -> str | None:
    path = local_path(location)
    if path is None or path.parent.name != ARTIFACTS or path.parent.parent == database.parent:
        return None
    former = path.parent.parent
    if former.exists() and former.samefile(database.parent):  # another name of the same folder
        return None
    here = database.parent / ARTIFACTS / path.name
    original = former / database.name
    if here.is_dir() or (not path.exists() and (original.exists() or not path.parent.exists())):
        return here.as_uri()
    if original.exists():
        raise MachineError(
            f"The tracking database {database} is a copy without its artifacts.",
            found=f"they lie in {path}, beside the original",
            expected=f"{here}",
            action=f"copy {path.parent} to {database.parent}, or set `tracking_uri: sqlite:///{original}`",
        )
    return None


def _change(connection: sqlite3.Connection, old: str, new: str) -> int:
    changed = 0
    for table, column in _COLUMNS:
        if _has(connection, table, column):
            changed += connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?) "
                f"where {column} = ? or substr({column}, 1, ?) = ?",
                [new, len(old) + 1, old, len(old) + 1, f"{old}/"],
            ).rowcount
    return changed


def _has(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in connection.execute(f"pragma table_info({table})"))
