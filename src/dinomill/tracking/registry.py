"""The model registry: registering an exported folder as a version, finding it again, aliases, download.

A version's artifacts, as MLflow lays them out:

    MLmodel                       flavour, signature, metadata
    data/<name>/                  our export: config.json and model.safetensors (never a pickle)
    input_example.json            what `predict` takes
    requirements.txt              what it needs
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.errors import InputError
from dinomill.storage.atomic import storage_errors
from dinomill.storage.hashing import hash_bytes
from dinomill.tracking.connection import connect, database_path, redact, resolve_uri, tracking_errors
from dinomill.tracking.moved import local_path, relocated
from dinomill.tracking.run import Run
from dinomill.tracking.store import current_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

WEIGHTS_TAG = "weights_sha256"
DATASET_TAG = "dataset_sha256"

# What the stores answer for a model, version or alias that does not exist.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The address that never moves: by number, not by alias."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class ModelCard:
    """What is registered beside the weights.

    Args:
        loader: Module with ``_load_pyfunc(folder)``, which MLflow imports to serve the model; it runs no code from
            the artifacts.
        example: A table that ``predict`` takes: a column ``image`` of encoded images.
        embed_dim: Width D of the embedding that ``predict`` returns.
        requirements: Pip requirements of a process that serves it.
        metrics: Written to the model's own page.
        tags: Written to the version; hashes of weights, data and configuration belong here.
        description: Markdown, shown on the version's page.
        summary: Markdown, shown on the model's page above its versions.
    """

    loader: str
    example: Any
    embed_dim: int
    requirements: Sequence[str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    description: str
    summary: str


def register(run: Run, name: str, folder: Path, card: ModelCard) -> RegisteredVersion:
    """Log ``folder`` as a model of the run and make it the next version of ``name``.

    Raises:
        MachineError: When the store refuses it.
    """
    assert run.run_id is not None, "a model is registered from an open run"
    client = connect(run.tracking_uri)
    with tracking_errors(run.tracking_uri):
        model = _log_model(run, folder, card)
        _ensure_model(client, name, card.summary)
        created = client.create_model_version(
            name,
            source=f"models:/{model.model_id}",
            run_id=run.run_id,
            tags=dict(card.tags),
            description=card.description,
            model_id=model.model_id,
        )
    return _version(created)


def _log_model(run: Run, folder: Path, card: ModelCard) -> Any:
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, card.embed_dim), "embedding")]),
    )
    # log_model writes to MLflow's module-wide "active run"; the caller's block still ends the run with its true status.
    with mlflow.start_run(run_id=run.run_id):
        model = mlflow.pyfunc.log_model(
            name="backbone",
            loader_module=card.loader,
            data_path=str(folder),
            signature=signature,
            input_example=card.example,
            pip_requirements=list(card.requirements),
            metadata={"format": "dinomill", **card.tags},
            tags=dict(card.tags),
        )
        mlflow.log_metrics(dict(card.metrics), model_id=model.model_id)
    return model


def _ensure_model(client: MlflowClient, name: str, summary: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=summary)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_registered_model(name, description=summary)


def find_version(tracking_uri: str, name: str, tags: Mapping[str, str]) -> RegisteredVersion | None:
    """The newest version of ``name`` that has all of ``tags``, or None."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        rows = client.search_model_versions(f"name='{_quoted(name)}'")
        found = [row for row in rows if all(row.tags.get(key) == value for key, value in tags.items())]
        if not found:
            return None
        # The search leaves aliases out in some stores; a direct read has them.
        return _version(client.get_model_version(name, str(max(int(row.version) for row in found))))


def read_version(tracking_uri: str, version: RegisteredVersion) -> RegisteredVersion:
    """A version as the registry has it now."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        return _version(client.get_model_version(version.name, str(version.version)))


def version_by_alias(tracking_uri: str, name: str, alias: str) -> RegisteredVersion | None:
    """The version that ``alias`` points to, or None when there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        try:
            return _version(client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise


def set_alias(tracking_uri: str, name: str, alias: str, version: int) -> None:
    """Point ``alias`` at a version; it leaves the version that had it."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        client.set_registered_model_alias(name, alias, str(version))


def annotate(tracking_uri: str, version: RegisteredVersion, *, description: str, tags: Mapping[str, str]) -> None:
    """Replace a version's description and set its tags."""
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        client.update_model_version(version.name, str(version.version), description=description)
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
            if error.error_code not in _ABSENT:
                raise
            raise InputError(f"The registry {redact(tracking_uri)} has no {version.uri}.") from None


def resolve(uri: str, tracking_uri: str | None = None) -> RegisteredVersion:
    """The version that an address names now.

    Args:
        uri: ``models:/name@alias`` or ``models:/name/version``.
        tracking_uri: The store; by default that of the environment at work, see ``store``.

    Raises:
        InputError: When there is no such model.
        MachineError: When the store cannot be reached.
    """
    store = resolve_uri(tracking_uri) if tracking_uri else current_store()
    return _resolve(connect(store, create=False), store, uri)


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
                return _version(client.get_model_version_by_alias(match["name"], match["alias"]))
            return _version(client.get_model_version(match["name"], match["version"]))
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
        models = client.search_registered_models()
    known = [f"models:/{model.name}@{alias}" for model in models for alias in model.aliases]
    raise InputError(
        f"The registry {redact(store)} has no {uri}.",
        found=", ".join(known) or "no registered model with an alias",
        action="run the registration stage (`kedro run --pipelines registration`, with its `--env`), "
        "or correct the address",
    )


def _fetch(store: str, found: RegisteredVersion, source: str) -> Path:
    """The model's folder: in place when it is on this machine, else a copy in the cache."""
    import mlflow

    here, database = local_path(source), database_path(store)
    if here is not None and database is not None:
        here = relocated(here, database)  # a database that may not be written keeps the addresses of before
    if here is not None and here.is_dir():
        return here
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinomill" / "models"
    target = base / hash_bytes(f"{store} {found.uri} {found.tags.get(WEIGHTS_TAG, '')} {source}".encode())[:16]
    if not target.is_dir():
        with storage_errors(target):
            base.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=base) as temporary:
                got = mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=temporary)
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


def _version(row: Any) -> RegisteredVersion:
    return RegisteredVersion(
        name=row.name,
        version=int(row.version),
        aliases=tuple(sorted(str(alias) for alias in row.aliases)),
        run_id=row.run_id or "",
        tags=dict(row.tags),
    )


def _quoted(name: str) -> str:
    return json.dumps(name)[1:-1].replace("'", "\\'")
