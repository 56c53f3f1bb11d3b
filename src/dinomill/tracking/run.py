"""One MLflow run a stage: opened by the stage, joined by its worker processes, written by rank 0 only."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.errors import DinomillError, InputError, MachineError
from dinomill.tracking.connection import connect, experiment_id, redact, resolve_uri, tracking_errors
from dinomill.tracking.provenance import source_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# Limits of MLflow's REST interface for one batch; a value longer than the last is cut.
_METRICS_A_BATCH = 1000
_PARAMS_A_BATCH = 100
_VALUE_LENGTH = 6000

_RETRY_SECONDS = 60.0

# `num_register_tokens` is no secret; `hub.token` is.
_SECRET = re.compile(r"password|secret|credential|api_?key|access_?key|(^|[._])token$", re.IGNORECASE)


class Run:
    """A run that is being written. Made by `open_run` and `attach`; never directly.

    Metrics that cannot be written because the store is away for a while are kept and written with the next ones:
    hours of training are not lost to a server that restarts.

    Args:
        client: The store's client, or None for a run that writes nothing (ranks other than 0, no tracking).
        run_id: MLflow's id of the run.
        tracking_uri: The store, a SQLite path made absolute.
    """

    def __init__(self, client: MlflowClient | None, run_id: str | None, tracking_uri: str) -> None:
        self._client = client
        self._id = run_id or ""
        self.tracking_uri = tracking_uri
        self._waiting: list[Any] = []
        self._next_try = 0.0

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, or None when nothing is tracked."""
        return self._id or None

    @property
    def writes(self) -> bool:
        """Whether this process writes the run."""
        return self._client is not None

    def log_metrics(
        self,
        metrics: Mapping[str, float] | Iterable[tuple[int, Mapping[str, float]]],
        step: int = 0,
    ) -> None:
        """Write metrics in few requests.

        Args:
            metrics: Name to value, for ``step``; or pairs of a step and such a mapping, for many steps at once.
                Values that are not finite are left out: MLflow's databases disagree on how to keep them.
            step: The step of a single mapping.
        """
        if self._client is None:
            return
        from mlflow.entities import Metric

        rows = [(step, metrics)] if isinstance(metrics, Mapping) else list(metrics)
        now = int(time.time() * 1000)
        self._waiting += [
            Metric(name, float(value), now, at)
            for at, values in rows
            for name, value in values.items()
            if math.isfinite(value)
        ]
        self.flush()

    def flush(self, *, force: bool = False) -> None:
        """Write the metrics that wait. While the store is away they are kept, and it is asked again once a minute.

        Args:
            force: Ask the store even within that minute.
        """
        if not force and time.monotonic() < self._next_try:
            return
        while self._client is not None and self._waiting:
            batch = self._waiting[:_METRICS_A_BATCH]
            try:
                with tracking_errors(self.tracking_uri):
                    self._client.log_batch(self._id, metrics=batch)
            except MachineError as error:
                # A training step must not stand still for every request that fails.
                self._next_try = time.monotonic() + _RETRY_SECONDS
                log.warning("Metrics wait to be written (%d values): %s", len(self._waiting), error)
                return
            del self._waiting[: len(batch)]

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write parameters, nested mappings as dotted names. Values whose name speaks of a secret are left out."""
        if self._client is None:
            return
        from mlflow.entities import Param

        rows = [Param(name, _text(value)) for name, value in flatten(params).items() if not _is_secret(name)]
        with tracking_errors(self.tracking_uri):
            for start in range(0, len(rows), _PARAMS_A_BATCH):
                self._client.log_batch(self._id, params=rows[start : start + _PARAMS_A_BATCH])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags; a tag that exists is replaced."""
        if self._client is None:
            return
        with tracking_errors(self.tracking_uri):
            for name, value in tags.items():
                self._client.set_tag(self._id, name, _text(value))

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that is in it, under ``folder`` of the run's artifacts."""
        if self._client is None:
            return
        if not path.exists():
            raise InputError(f"There is no {path} to keep as an artifact of the run.")
        with tracking_errors(self.tracking_uri):
            if path.is_dir():
                self._client.log_artifacts(self._id, str(path), artifact_path=folder)
            else:
                self._client.log_artifact(self._id, str(path), artifact_path=folder)

    def log_dataset(self, name: str, digest: str, source: str, *, context: str = "training", rows: int = 0) -> None:
        """Record what data the run used.

        Args:
            name: What people call it, such as ``curated``.
            digest: The hash of its manifest; the same hash stands in DVC's lock and in the handles. MLflow keeps 36
                characters of it.
            source: The folder or URI.
            context: What it was used for: ``training``, ``evaluation``, …
            rows: The number of images, or 0 when it is not known.
        """
        if self._client is None:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:36],
            source_type="local" if "://" not in source else source.split("://", 1)[0],
            source=json.dumps({"uri": redact(source)}),
            profile=json.dumps({"images": rows, "sha256": digest}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        with tracking_errors(self.tracking_uri):
            self._client.log_inputs(self._id, datasets=[DatasetInput(dataset, tags)])

    def environment(self) -> dict[str, str]:
        """The variables by which a worker process finds this run: give them to its environment."""
        if not self._id:
            return {}
        return {"MLFLOW_RUN_ID": self._id, "MLFLOW_TRACKING_URI": self.tracking_uri}


@contextmanager
def open_run(
    stage: str,
    *,
    tracking_uri: str,
    experiment: str = "dinomill",
    tags: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Open the MLflow run of a stage; it ends as finished, failed or killed with the block.

    Args:
        stage: The stage's name, which becomes the run's.
        tracking_uri: ``sqlite:///path`` or the address of a server.
        experiment: The MLflow experiment, created if need be.
        tags: Tags of the run; ``git_commit`` is added.
        params: The configuration, as nested mappings; secrets are left out.

    Raises:
        MachineError: When the store cannot be reached.
    """
    uri = resolve_uri(tracking_uri)
    client = connect(uri)
    experiment_key = experiment_id(client, uri, experiment)
    all_tags = source_tags(stage) | {name: _text(value) for name, value in (tags or {}).items()}
    with tracking_errors(uri):
        created = client.create_run(experiment_key, run_name=stage, tags=all_tags)
    run = Run(client, created.info.run_id, uri)
    status = "FAILED"
    try:
        run.log_params(params or {})
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        _end(client, run, status)


def _end(client: MlflowClient, run: Run, status: str) -> None:
    """End the run; while another error is on its way to the user, a store that is away must not hide it."""
    try:
        run.flush(force=True)
        with tracking_errors(run.tracking_uri):
            client.set_terminated(run.run_id or "", status=status)
    except DinomillError as error:
        if status == "FINISHED":
            raise
        log.warning("The run could not be ended in the store: %s", error)


def attach(run_id: str | None = None, tracking_uri: str | None = None) -> Run:
    """Join a run that another process opened, by ``MLFLOW_RUN_ID`` and ``MLFLOW_TRACKING_URI`` unless they are given.

    Only rank 0 (environment variable ``RANK``, as torchrun sets it) writes; elsewhere, and where there is no run, the
    result takes every call and does nothing.

    Raises:
        MachineError: When the store cannot be reached.
    """
    run_id = run_id or os.environ.get("MLFLOW_RUN_ID")
    uri = resolve_uri(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", ""))
    if not run_id or not uri or int(os.environ.get("RANK", "0")) != 0:
        return Run(None, run_id, uri)
    return Run(connect(uri), run_id, uri)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(str(item) for item in value)
    return redact(str(value))[:_VALUE_LENGTH]
