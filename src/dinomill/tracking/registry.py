"""The model registry: finding versions, their aliases and tags, download; `registering` makes them."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.addresses import redact
from dinomill.errors import InputError
from dinomill.storage.atomic import storage_errors
from dinomill.storage.hashing import hash_bytes
from dinomill.storage.user_cache import user_cache
from dinomill.tracking.at_work import promotes, registers
from dinomill.tracking.connection import connect, database_path, registry_of, resolve_uri, tracking_errors
from dinomill.tracking.made import ABSENT
from dinomill.tracking.moved import local_path, relocated
from dinomill.tracking.store import current_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

WEIGHTS_TAG = "weights_sha256"
DATASET_TAG = "dataset_sha256"
TRAINING_TAG = "training_run"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    tags: dict[str, str] = field(default_factory=dict)
    registered: str = ""  # when, UTC

    @property
    def uri(self) -> str:
        """The address that never moves: by number, not by alias."""
        return f"models:/{self.name}/{self.version}"

    @property
    def made_by(self) -> str:
        """The run that trained it, where that is known, which may be later; else the one that registered it."""
        return self.tags.get(TRAINING_TAG) or self.run_id


def find_version(tracking_uri: str, name: str, tags: Mapping[str, str]) -> RegisteredVersion | None:
    """The newest version of ``name`` that has all of ``tags``, or None."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        rows = _rows(client, name)
        found = [row for row in rows if all(row.tags.get(key) == value for key, value in tags.items())]
        if not found:
            return None
        # The search leaves aliases out in some stores; a direct read has them.
        return as_version(client.get_model_version(name, str(max(int(row.version) for row in found))))


def versions(tracking_uri: str, name: str) -> list[RegisteredVersion]:
    """The versions of a model with their aliases, oldest first; none where there is no such model."""
    from mlflow.exceptions import MlflowException

    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        try:
            named = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code in ABSENT:
                return []
            raise
        rows = [as_version(row) for row in _rows(client, name)]
    held = {row.version: tuple(sorted(one for one, at in named.items() if int(at) == row.version)) for row in rows}
    return sorted((replace(row, aliases=held[row.version]) for row in rows), key=lambda row: row.version)


def read_version(tracking_uri: str, version: RegisteredVersion) -> RegisteredVersion:
    """A version as the registry has it now."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        return as_version(client.get_model_version(version.name, str(version.version)))


def version_by_alias(tracking_uri: str, name: str, alias: str) -> RegisteredVersion | None:
    """The version that ``alias`` points to, or None when there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        try:
            return as_version(client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise


def set_alias(tracking_uri: str, name: str, alias: str, version: int | None) -> None:
    """Point ``alias`` at a version, which it leaves the one that had it for; None takes it away."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        if version is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, str(version))


def tag_model(tracking_uri: str, name: str, key: str, value: str) -> None:
    """Set a tag of a registered model, which belongs to all of its versions."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        client.set_registered_model_tag(name, key, value)


def model_tags(tracking_uri: str, name: str) -> dict[str, str]:
    """The tags of a registered model; none where there is no such model."""
    from mlflow.exceptions import MlflowException

    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        try:
            return dict(client.get_registered_model(name).tags)
        except MlflowException as error:
            if error.error_code in ABSENT:
                return {}
            raise


def resolve(uri: str, tracking_uri: str | None = None) -> RegisteredVersion:
    """The version that an address means now.

    Args:
        uri: ``models:/name@alias`` or ``models:/name/version``.
        tracking_uri: The store; by default that of the environment at work.

    Raises:
        InputError: When there is no such version.
        MachineError: When the store cannot be reached.
    """
    store = resolve_uri(tracking_uri) if tracking_uri else current_store()
    return _resolve(connect(store, create=False), store, uri)


def annotate(
    tracking_uri: str,
    version: RegisteredVersion,
    *,
    description: str,
    tags: Mapping[str, str],
    without: Sequence[str] = (),
) -> None:
    """Replace a version's description, set tags, and take away those that hold no longer."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        client.update_model_version(version.name, str(version.version), description=description)
        for key in without:
            client.delete_model_version_tag(version.name, str(version.version), key)
    set_tags(tracking_uri, version, tags)


def set_tags(tracking_uri: str, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
    """Set tags of a version; others stay.

    Raises:
        InputError: When the registry has no such version.
    """
    from mlflow.exceptions import MlflowException

    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        try:
            for key, value in tags.items():
                client.set_model_version_tag(version.name, str(version.version), key, value)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            raise InputError(f"The registry {redact(tracking_uri)} has no {version.uri}.") from None


def download(uri: str, tracking_uri: str | None = None) -> Path:
    """The folder of a registered model's export: ``config.json`` and ``model.safetensors``.

    Artifacts on this machine are used where they lie; others are fetched once into ``$XDG_CACHE_HOME/dinomill``.

    Args:
        uri: ``models:/name@alias`` or ``models:/name/version``.
        tracking_uri: The store; by default that of the environment at work, see ``store``.

    Raises:
        InputError: When there is no such model, or it was not registered by dinomill.
        MachineError: When the store cannot be reached.
    """
    store = resolve_uri(tracking_uri) if tracking_uri else current_store()
    client = connect(store, create=False)
    found = _resolve(client, store, uri)
    with tracking_errors(store):
        source = client.get_model_version_download_uri(found.name, str(found.version))
        root = _fetch(store, found, source)
    return _export_folder(root, uri)


def _resolve(client: MlflowClient, store: str, uri: str) -> RegisteredVersion:
    from mlflow.exceptions import MlflowException

    match = re.fullmatch(r"models:/+(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if match is None:
        raise InputError(f"{uri!r} names no registered model.", expected="models:/name@alias or models:/name/version")
    with tracking_errors(store):
        try:
            if match["alias"]:
                return as_version(client.get_model_version_by_alias(match["name"], match["alias"]))
            return as_version(client.get_model_version(match["name"], match["version"]))
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
        models = client.search_registered_models()
    known = [f"models:/{model.name}@{alias}" for model in models for alias in model.aliases]
    action = f"run the registration stage ({registers()}), or correct the address"
    if match["alias"] and any(model.name == match["name"] for model in models):
        # Registered, and perhaps kept from the alias by its gate: registering it again would change nothing.
        action = f"name one of these, or give a version the alias: {promotes(match['alias'])}"
    raise InputError(
        f"The registry {redact(registry_of(store))} has no {uri}.",
        found=", ".join(known) or "no registered model with an alias",
        action=action,
    )


def _fetch(store: str, found: RegisteredVersion, source: str) -> Path:
    """The model's folder: in place when it is on this machine, else a copy in the cache."""
    import mlflow

    registry = registry_of(store)
    here, database = local_path(source), database_path(registry)
    if here is not None and database is not None:
        here = relocated(here, database)  # a database that may not be written keeps the addresses of before
    if here is not None and here.is_dir():
        return here
    base = user_cache("models")
    target = base / hash_bytes(f"{store} {found.uri} {found.tags.get(WEIGHTS_TAG, '')} {source}".encode())[:16]
    if not target.is_dir():
        with storage_errors(target):
            base.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=base) as temporary:
                # What a server hands out itself is asked of the one that has the version.
                asked = registry if source.startswith("mlflow-artifacts:") else None
                got = mlflow.artifacts.download_artifacts(source, dst_path=temporary, tracking_uri=asked)
                if not target.is_dir():  # another process may have been faster
                    shutil.move(got, target)
    return target


def _export_folder(root: Path, uri: str) -> Path:
    """The export inside an MLflow model folder."""
    described = root / "MLmodel"
    if described.is_file():
        import yaml

        flavour = yaml.safe_load(described.read_text(encoding="utf-8")).get("flavors", {}).get("python_function", {})
        export = root / str(flavour.get("data", "data"))
        if (export / "config.json").is_file():
            return export
    raise InputError(
        f"{uri} holds no dinomill export.",
        found=f"{root}",
        expected="an MLflow model with data/<name>/config.json and model.safetensors, as the registration stage writes",
        action="if the artifacts were deleted, run the registration stage with `force: true`",
    )


def as_version(row: Any) -> RegisteredVersion:
    """MLflow's row of a version, as ours."""
    return RegisteredVersion(
        name=row.name,
        version=int(row.version),
        aliases=tuple(sorted(str(alias) for alias in row.aliases)),
        run_id=row.run_id or "",
        tags=dict(row.tags),
        registered=datetime.fromtimestamp(row.creation_timestamp / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if row.creation_timestamp
        else "",
    )


def _rows(client: MlflowClient, name: str) -> list[Any]:
    """MLflow's rows of a model's versions, whatever it is called: MLflow's filters know quotes, and no escapes."""
    quote = next((one for one in "'\"" if one not in name), None)
    wanted = None if quote is None else f"name={quote}{name}{quote}"
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(wanted, page_token=token)
        found += (row for row in page if row.name == name)
        if not (token := page.token):
            return found
