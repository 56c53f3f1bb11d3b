"""One MLflow run a stage: what is written to it, by rank 0 only; `life` opens, joins and ends it."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dinomill.addresses import redact
from dinomill.errors import InputError, MachineError
from dinomill.tracking.connection import RefusedError, tracking_errors
from dinomill.tracking.dvc_versions import dvc_version
from dinomill.tracking.operations import METRICS_A_BATCH, OPERATIONS
from dinomill.tracking.spool import FOLDER, Spool, is_spooled, spool_folder
from dinomill.tracking.texts import as_text, flatten, is_secret

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_NAME_LENGTH = 200

_RETRY_SECONDS = 60.0
_CLOSE_SECONDS = 30.0


class Run:
    """A run that is being written. Made by `open_run` and `attach`; never directly.

    Metrics that cannot be written because the store is away for a while are kept and written with the next ones:
    hours of training are not lost to a server that restarts. All else, and metrics that still wait at the end, are
    then kept in the `spool`, from which `dinomill tracking sync` brings them to the store.

    Args:
        client: The store's client, or None for a run that writes nothing (ranks other than 0, no tracking).
        run_id: MLflow's id of the run.
        tracking_uri: The store, a SQLite path made absolute.
        background: Metrics are written by a thread: who logs them waits for no store. ``close`` it at the end, or use
            it as a context.
        parent: The id of the run that this one is a child of.
    """

    def __init__(
        self,
        client: MlflowClient | None,
        run_id: str | None,
        tracking_uri: str,
        *,
        background: bool = False,
        parent: str | None = None,
    ) -> None:
        self._client = client
        self.parent = parent
        self._id = run_id or ""
        self.tracking_uri = tracking_uri
        self._waiting: list[list[Any]] = []
        self._said = False
        self._lock = threading.Lock()
        self._writing = threading.RLock()  # the machine's figures come from a thread of their own
        self._next_try = 0.0
        self._told = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        if background and client is not None:
            self._thread = threading.Thread(target=self._write_on, name="dinomill-tracking", daemon=True)
            self._thread.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, or None when nothing is tracked."""
        return self._id or None

    @property
    def client(self) -> MlflowClient | None:
        """The store's client; None where nothing is written."""
        return self._client

    def become(self, run_id: str) -> None:
        """Write another run from now on; what waits goes there too."""
        self._id = run_id

    @property
    def writes(self) -> bool:
        """Whether this process writes the run: to its store, or to what waits for it."""
        return self._client is not None or self.spooled

    @property
    def spooled(self) -> bool:
        """Whether the run was begun without its store."""
        return is_spooled(self._id)

    def write(self, operation: str, **values: Any) -> None:
        """Do one of `operations.OPERATIONS`; while the store is away, it is kept for later.

        Raises:
            MachineError: When the store cannot take it, now or later.
        """
        if self.spooled:
            Spool(self._id).keep(self.tracking_uri, operation, values)
        elif self._client is not None:
            try:
                with tracking_errors(self.tracking_uri):
                    OPERATIONS[operation](self._client, self._id, **values)
            except RefusedError as error:  # a token that ran out in the middle of a training, too
                self.keep(error, operation, values)

    def keep(self, error: MachineError, operation: str, values: Mapping[str, Any]) -> None:
        """Keep for later what cannot be written now, and say so, once."""
        Spool(self._id).keep(self.tracking_uri, operation, values)
        if not self._said:
            self._said = True
            log.warning("%s It is kept in %s: `dinomill tracking sync` writes it later.", error, spool_folder())

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
        if not self.writes:
            return
        rows = [(step, metrics)] if isinstance(metrics, Mapping) else list(metrics)
        now = int(time.time() * 1000)
        found = [
            [name, float(value), now, at]
            for at, values in rows
            for name, value in values.items()
            if math.isfinite(value)
        ]
        with self._lock:
            self._waiting += found
        if self._thread is None:
            self.flush()
        else:
            self._told.set()

    def flush(self, *, force: bool = False) -> None:
        """Write the metrics that wait. While the store is away they are kept, and it is asked again once a minute.

        Args:
            force: Ask the store even within that minute.
        """
        if not force and time.monotonic() < self._next_try:
            return
        with self._writing:
            while self.writes and self._waiting:
                batch = self._waiting[:METRICS_A_BATCH]
                if self.spooled:
                    self.write("metrics", rows=batch)
                elif not self._written(batch):
                    return
                with self._lock:
                    del self._waiting[: len(batch)]

    def _written(self, batch: list[list[Any]]) -> bool:
        """Whether the store took metrics; while it is away they wait."""
        assert self._client is not None, "a run that writes"
        try:
            with tracking_errors(self.tracking_uri):
                OPERATIONS["metrics"](self._client, self._id, rows=batch)
        except MachineError as error:
            # A training step must not stand still for every request that fails.
            self._next_try = time.monotonic() + _RETRY_SECONDS
            log.warning("Metrics wait to be written (%d values): %s", len(self._waiting), error)
            return False
        return True

    def leave_none(self) -> None:
        """Write all metrics that wait, or keep them for later: nothing waits in memory afterwards."""
        self.flush(force=True)
        with self._lock:
            left, self._waiting = self._waiting, []
        if left:
            self.keep(MachineError("The MLflow store does not take the last metrics."), "metrics", {"rows": left})

    def _write_on(self) -> None:
        """The thread: write what was told, until it is closed."""
        while not self._closing:
            self._told.wait(_RETRY_SECONDS)
            self._told.clear()
            try:
                self.flush(force=self._closing)
            except Exception as error:  # a bug here must not end in silence, nor in the end of a training
                log.warning("Metrics cannot be written: %s: %s", type(error).__name__, error)
                self._next_try = time.monotonic() + _RETRY_SECONDS

    def close(self) -> None:
        """Write what waits; for a store that does not answer within half a minute it is kept for later."""
        if self._thread is None:
            return
        self._closing = True
        self._told.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            # It may yet write what it holds: twice the same point does no harm, none would.
            self._next_try = math.inf
        with self._lock:
            left, self._waiting = self._waiting, []
        if left:
            self.keep(MachineError("The MLflow store does not take the last metrics."), "metrics", {"rows": left})
        self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def last_step(self, metric: str) -> int:
        """The last step at which the run has a metric; -1 where it has none, or the store does not answer."""
        if self._client is None:
            return -1
        try:
            with tracking_errors(self.tracking_uri):
                points = self._client.get_metric_history(self._id, metric)
        except MachineError as error:
            log.warning("What the run has already is not known: %s", error)
            return -1
        return max((point.step for point in points), default=-1)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write parameters, nested mappings as dotted names. Values whose name speaks of a secret are left out."""
        named = {name: as_text(value) for name, value in flatten(params).items() if not is_secret(name)}
        if named:
            self.write("params", values=named)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags; a tag that exists is replaced."""
        if tags:
            self.write("tags", values={name: as_text(value) for name, value in tags.items()})

    def rename(self, name: str) -> None:
        """Give the run another name, for people: what came out of it."""
        self.write("name", name=as_text(name)[:_NAME_LENGTH])

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that is in it, under ``folder`` of the run's artifacts."""
        if not self.writes:
            return
        if not path.exists():
            raise InputError(f"There is no {path} to keep as an artifact of the run.")
        self.write("artifacts", path=str(path), folder=folder)

    def log_dataset(self, name: str, digest: str, source: str, *, context: str = "training", rows: int = 0) -> None:
        """Record what data the run used.

        Args:
            name: What people call it, such as ``curated``.
            digest: The hash of its manifest, as the handles have it. MLflow keeps 36 characters of it.
            source: The folder or URI. Of a folder that DVC has, DVC's hash is kept too.
            context: What it was used for: ``training``, ``evaluation``, …
            rows: The number of images, or 0 when it is not known.
        """
        if not self.writes:
            return
        local = "://" not in source
        version = dvc_version(Path(source)) if local else None
        profile = {"images": rows, "sha256": digest} | ({"dvc": version} if version else {})
        values = {
            "name": name,
            "digest": digest[:36],
            "source_type": "local" if local else source.split("://", 1)[0],
            "source": json.dumps({"uri": redact(source)}),
            "profile": json.dumps(profile),
        }
        self.write("dataset", values=values, context=context)

    def log_model_made(self, name: str, weights_sha256: str, facts: Mapping[str, Any]) -> None:
        """Record a network that the run made, as an output: what uses it and what is registered of it leads back here.

        Args:
            name: Of the network.
            weights_sha256: Of its file of weights.
            facts: What else is known of it, shown beside it.
        """
        told = {key: as_text(value) for key, value in facts.items()}
        self.write("made", name=name, weights_sha256=weights_sha256, facts=told)

    def log_models_used(self, weights_sha256: Iterable[str | None]) -> None:
        """Record networks that the run starts from, learns from or measures, as inputs; unknown ones are left out."""
        if known := [one for one in weights_sha256 if one]:
            self.write("used", weights_sha256=known)

    def log_model_metrics(self, weights_sha256: str, metrics: Mapping[str, float]) -> None:
        """Write figures of a network that another run made: they are shown on its own page, too."""
        self.write("measured", weights_sha256=weights_sha256, metrics=dict(metrics))

    def environment(self) -> dict[str, str]:
        """The variables by which a worker process finds this run: give them to its environment."""
        if not self._id:
            return {}
        found = {"MLFLOW_RUN_ID": self._id, "MLFLOW_TRACKING_URI": self.tracking_uri}
        return found | ({FOLDER: str(spool_folder())} if self.spooled else {})
