"""The only place that knows MLflow: runs, metrics, artifacts, dataset lineage and the model registry.

MLflow itself is imported when a function first needs it (2 to 3 CPU-seconds): importing this package is free.
"""

from dinomill.addresses import redact
from dinomill.tracking.config import TrackingConfig
from dinomill.tracking.connection import registry_of, resolve_uri
from dinomill.tracking.dvc_versions import dvc_remote, dvc_version
from dinomill.tracking.facts import RunFacts, run_artifact, run_facts, run_of_weights
from dinomill.tracking.invocation import Described, Invocation, invocation, started_by
from dinomill.tracking.life import attach, continue_run, end_for, end_run, open_run
from dinomill.tracking.made import run_that_made
from dinomill.tracking.provenance import git_commit
from dinomill.tracking.registering import ModelCard, register
from dinomill.tracking.registry import (
    DATASET_TAG,
    WEIGHTS_TAG,
    RegisteredVersion,
    annotate,
    download,
    find_version,
    model_tags,
    read_version,
    resolve,
    set_alias,
    tag_model,
    version_by_alias,
    versions,
)
from dinomill.tracking.run import Run
from dinomill.tracking.store import current_store, holds, store_at_work
from dinomill.tracking.texts import without_secrets

__all__ = [
    "DATASET_TAG",
    "WEIGHTS_TAG",
    "Described",
    "Invocation",
    "ModelCard",
    "RegisteredVersion",
    "Run",
    "RunFacts",
    "TrackingConfig",
    "annotate",
    "attach",
    "continue_run",
    "current_store",
    "download",
    "dvc_remote",
    "dvc_version",
    "end_for",
    "end_run",
    "find_version",
    "git_commit",
    "holds",
    "invocation",
    "model_tags",
    "open_run",
    "read_version",
    "redact",
    "register",
    "registry_of",
    "resolve",
    "resolve_uri",
    "run_artifact",
    "run_facts",
    "run_of_weights",
    "run_that_made",
    "set_alias",
    "started_by",
    "store_at_work",
    "tag_model",
    "version_by_alias",
    "versions",
    "without_secrets",
]
