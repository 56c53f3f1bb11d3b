"""What is written to a run, as words and values that can be kept in a file and written later: one way for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.tracking.made import made, measured, tag_version, used

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Limits of MLflow's REST interface for one batch.
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
RUN = "{run}"


def _metrics(client: MlflowClient, run_id: str, rows: Sequence[Sequence[Any]]) -> None:
    """Rows of name, value, milliseconds, step."""
    from mlflow.entities import Metric

    for start in range(0, len(rows), METRICS_A_BATCH):
        client.log_batch(run_id, metrics=[Metric(*row) for row in rows[start : start + METRICS_A_BATCH]])


def _params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    rows = [Param(name, value) for name, value in values.items()]
    for start in range(0, len(rows), PARAMS_A_BATCH):
        client.log_batch(run_id, params=rows[start : start + PARAMS_A_BATCH])


def _tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        client.set_tag(run_id, name, value)


def _name(client: MlflowClient, run_id: str, name: str) -> None:
    client.update_run(run_id, name=name)


def _artifacts(client: MlflowClient, run_id: str, path: str, folder: str | None) -> None:
    if Path(path).is_dir():
        client.log_artifacts(run_id, path, artifact_path=folder)
    else:
        client.log_artifact(run_id, path, artifact_path=folder)


def _dataset(client: MlflowClient, run_id: str, values: Mapping[str, Any], context: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag("mlflow.data.context", context)]
    client.log_inputs(run_id, datasets=[DatasetInput(Dataset(**values), tags)])


def _made(client: MlflowClient, run_id: str, name: str, weights_sha256: str, facts: Mapping[str, str]) -> None:
    made(client, run_id, name, weights_sha256, facts)


def _used(client: MlflowClient, run_id: str, weights_sha256: Sequence[str]) -> None:
    used(client, run_id, weights_sha256)


def _measured(client: MlflowClient, run_id: str, weights_sha256: str, metrics: Mapping[str, float]) -> None:
    measured(client, run_id, weights_sha256, metrics)


def _version(
    client: MlflowClient, run_id: str, name: str, version: int, weights_sha256: str, values: Mapping[str, str]
) -> None:
    """Tags of a registered version; RUN in them is the run, which has another id if it began without its store."""
    values = {key: text.replace(RUN, run_id) for key, text in values.items()}
    tag_version(client, name, version, weights_sha256, values)


def _end(client: MlflowClient, run_id: str, status: str, at: int | None = None) -> None:
    client.set_terminated(run_id, status=status, end_time=at)


OPERATIONS: dict[str, Callable[..., None]] = {
    "metrics": _metrics,
    "params": _params,
    "tags": _tags,
    "name": _name,
    "artifacts": _artifacts,
    "dataset": _dataset,
    "made": _made,
    "used": _used,
    "measured": _measured,
    "version": _version,
    "end": _end,
}
