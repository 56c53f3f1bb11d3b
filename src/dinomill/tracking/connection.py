"""Reaching the MLflow store: quiet, without telemetry, and with errors that say what to do.

A SQLite store is a folder that moves as one:

    <folder>/mlflow.db        runs, metrics, registered models
    <folder>/artifacts/       what runs and models keep as files
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dinomill.addresses import redact
from dinomill.errors import MachineError
from dinomill.layers.project import kept_project, project_above
from dinomill.storage.atomic import storage_errors
from dinomill.tracking.at_work import registers
from dinomill.tracking.config import DATABASES
from dinomill.tracking.database import prepare
from dinomill.tracking.moved import ARTIFACTS, follow
from dinomill.variables import kept_environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"

# A server that is down should be said within seconds, not after MLflow's default of several minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


_REFUSED = re.compile(
    r"\b40[13]\b|unauthori[sz]ed|permission[ _]denied|password authentication failed|AccessDenied|InvalidAccessKeyId|"
    r"SignatureDoesNotMatch|no password supplied",
    re.IGNORECASE,
)
_AWAY = re.compile(
    r"API request to .* failed with exception|error code (429|5\d\d)|\b50[234]\b|could not connect|connection "
    r"(refused|reset|timed out)|Could not connect to the endpoint|database is locked|server closed the connection",
    re.IGNORECASE,
)

_STORE_PACKAGES = frozenset(
    {"alembic", "boto3", "botocore", "mlflow", "psycopg", "psycopg2", "requests", "sqlalchemy", "sqlite3", "urllib3"}
)


def resolve_uri(uri: str, base: Path | None = None) -> str:
    """The URI with a relative SQLite path made absolute, so that worker processes find the same database.

    In a copy that DVC runs an experiment in, it is the database of the project that was copied.

    Args:
        uri: Of a store.
        base: Where a relative path starts; None is the working directory.
    """
    if not uri.startswith(_SQLITE):
        return uri
    return f"{_SQLITE}{kept_project((base or Path()).absolute()) / uri.removeprefix(_SQLITE)}"


def registry_of(uri: str) -> str:
    """The registry that belongs to a store: the store's own, unless the user says otherwise."""
    return resolve_uri(os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def database_path(uri: str) -> Path | None:
    """The file of a SQLite store, or None for any other store."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def quiet() -> None:
    """Switch off MLflow's telemetry and chatter; must run before its first import. What the user has set, stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of a full or locked database MLflow would show a traceback beside the message that is made of it here.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # MLflow imports its optional plugins and warns of their age: nothing that a user of dinomill could act on.
    warnings.filterwarnings("ignore", module=r"mlflow\..*")


def connect(uri: str, *, create: bool = True) -> MlflowClient:
    """A client of the store.

    Args:
        uri: The store; a relative SQLite path is taken from the working directory.
        create: Whether to make a SQLite file that does not exist; for reading, a new empty one would only mislead.

    Raises:
        MachineError: When the store cannot be reached or used.
        StorageError: When the folder of the SQLite file cannot be made.
    """
    quiet()
    uri = resolve_uri(uri)
    database = database_path(uri)
    if database is not None and not create and not database.exists():
        raise MachineError(
            f"There is no tracking database {database}.",
            action=_how_to_have_it(database),
        )
    make_ready(uri)
    _reach(uri)
    with tracking_errors(uri):
        import mlflow
        from mlflow import MlflowClient

        registry = registry_of(uri)
        # MLflow writes both into the environment, where they would pass for the user's own at the next store.
        with kept_environment("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(registry)
        return MlflowClient(uri, registry)


_reached: set[tuple[str, str]] = set()


def _reach(uri: str) -> None:
    """Ask a database server once whether it lets us in: MLflow tries ten times, for minutes, before it says."""
    asked = (uri, os.environ.get("PGPASSWORD", ""))
    if uri.split(":", 1)[0].split("+", 1)[0] not in DATABASES or asked in _reached:
        return
    import sqlalchemy

    try:
        with tracking_errors(uri):
            engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
            engine.connect().close()
    except ImportError as error:
        raise MachineError(
            f"The MLflow store {redact(uri)} needs the package {error.name}.",
            action="pip install 'dinomill[postgres]'" if uri.startswith("postgresql") else f"pip install {error.name}",
        ) from None
    _reached.add(asked)


def _how_to_have_it(database: Path) -> str:
    """What makes registered models known here: of a clone that has pulled its results, one command."""
    root = project_above(Path.cwd())
    if root is not None and database.is_relative_to(root):
        return f"run {registers()}: it registers the results that lie here; a fresh clone has none before `dvc pull`"
    return (
        "run from within the project, or set MLFLOW_TRACKING_URI to the store that has the model "
        "(sqlite:////path/of/the/project/data/mlflow/mlflow.db)"
    )


def make_ready(uri: str) -> None:
    """See that a SQLite store is whole, and that its artifacts are those that lie beside it.

    Raises:
        MachineError: When the store cannot be used.
        StorageError: When its folder cannot be made.
    """
    database = database_path(uri)
    if database is None:
        return
    with storage_errors(database):
        database.parent.mkdir(parents=True, exist_ok=True)
    with tracking_errors(uri):
        prepare(database)
        follow(database)


def experiment_id(client: MlflowClient, uri: str, name: str, artifact_root: str | None = None) -> str:
    """The experiment's id; it is created if need be.

    Args:
        client: Of the store.
        uri: Of the store.
        name: Of the experiment.
        artifact_root: Below which a new one keeps its files; None: beside a SQLite file, or where the server says.

    Raises:
        MachineError: When the store cannot be reached, or the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    uri = resolve_uri(uri)
    database = database_path(uri)
    with tracking_errors(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            location = (database.parent / ARTIFACTS / _slug(name)).as_uri() if database else None
            if artifact_root is not None:
                location = f"{artifact_root.rstrip('/')}/{_slug(name)}"
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                # Another first run was faster.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(name)
                assert experiment is not None, "it exists already"
    if experiment.lifecycle_stage != "active":
        raise MachineError(
            f"The MLflow experiment {name!r} was deleted.",
            action=f"restore it with `mlflow experiments restore -x {experiment.experiment_id}`, or set another "
            "`experiment` in the tracking parameters",
        )
    return str(experiment.experiment_id)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "experiment"


class RefusedError(MachineError):
    """The store lets nobody in with these credentials, or none in at all now: what was to be written can wait."""


class StoreAwayError(RefusedError):
    """The store does not answer now, and may later."""


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or its server raise into a MachineError that names the store."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        if not _is_store_error(error):
            raise
        raise _explain(uri, error) from None


def _is_store_error(error: Exception) -> bool:
    return type(error).__module__.split(".", 1)[0] in _STORE_PACKAGES


def _explain(uri: str, error: Exception) -> MachineError:
    text = redact(str(error).strip() or type(error).__name__)
    # SQLAlchemy says first under which circumstances, and then what.
    lines = [line for line in text.splitlines() if not line.startswith("(raised as a result of")]
    first_line = (lines or [text])[0][:300]
    shown = redact(uri)
    if _REFUSED.search(text):
        action = (
            "check the user, the password or the token: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, for a server; PGPASSWORD or ~/.pgpass for PostgreSQL; the usual AWS chain for S3"
        )
    elif "out-of-date database schema" in text:
        action = f"save a copy of the database, then run `mlflow db upgrade {shown}`"
    elif "disk is full" in text:
        action = "free some space on that disk and run the same command again: it continues where it was"
    elif "readonly database" in text:
        action = f"give this user the right to write {uri.removeprefix(_SQLITE)} and its folder"
    elif "database is locked" in text:
        action = "another process holds the database; end it, or use an MLflow server for several writers at once"
    elif "Can't locate revision" in text:
        action = "the database was made by a newer MLflow; install that one, or point `tracking_uri` at another file"
    elif uri.startswith(_SQLITE):
        action = f"check that this user may write {uri.removeprefix(_SQLITE)} and that it is a database; or remove it"
    else:
        action = (
            "start the server or correct `tracking_uri` in conf/…/globals.yml; "
            "for work without a server use sqlite:///data/mlflow/mlflow.db"
        )
    kind: type[MachineError] = StoreAwayError if _is_away(error, text) else MachineError
    if _REFUSED.search(text):
        kind = RefusedError
    return kind(f"The MLflow store {shown} cannot be used.", found=first_line, action=action)


def _is_away(error: Exception, text: str) -> bool:
    """Whether the same request may be answered later: no connection, an overloaded or restarting server, a lock."""
    of = type(error).__module__.split(".", 1)[0]
    if of in {"requests", "urllib3"}:
        return True
    if of == "sqlalchemy" or of == "sqlite3":
        return type(error).__name__ in {"OperationalError", "InterfaceError", "TimeoutError"}
    return bool(_AWAY.search(text))
