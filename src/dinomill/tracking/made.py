"""Which run made a network, and which used it: MLflow's logged models, found by the hash of their weights.

A run tags what it made, and has it as an output: a logged model that holds no files, since they lie with DVC. What is
registered of it later fills the same one, so that a version's page leads to the run of its training. Results need not
hold the id of a run to be traced to it.

Tags of a logged model:

    weights_sha256    of its file of weights
    registered        "true" once its files are with MLflow
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dinomill.tracking.connection import connect, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# What the stores answer for a model, version or alias that does not exist.
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_MADE = "weights_sha256"
REGISTERED = "registered"
_EXTERNAL = "mlflow.model.isExternal"
_KIND = "image backbone"


def run_that_made(tracking_uri: str, name: str, weights_sha256: str) -> str | None:
    """The id of the newest run that made a network; None where the store knows none.

    Args:
        tracking_uri: The store.
        name: Of the network, as the run tagged it.
        weights_sha256: Of its file of weights.

    Raises:
        MachineError: When the store cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        wanted = f"tags.`{_MADE}.{name}` = '{weights_sha256}'"
        found = client.search_runs(_experiments(client), filter_string=wanted, max_results=1)
    return found[0].info.run_id if found else None


def made(
    client: MlflowClient,
    run_id: str,
    name: str,
    weights_sha256: str,
    facts: Mapping[str, str],
    *,
    again: bool = False,
) -> None:
    """Make a network an output of the run that made it; once, however often the run is taken up again.

    Args:
        client: Of the store.
        run_id: The run.
        name: Of the network.
        weights_sha256: Of its file of weights.
        facts: What else is known of it.
        again: Make another one for its files, of a run that need not have trained it.
    """
    from mlflow.entities import LoggedModelOutput

    if not again:
        client.set_tag(run_id, f"{_MADE}.{name}", weights_sha256)
        if any(model.source_run_id == run_id for model in _models(client, weights_sha256)):
            return
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(
        experiment,
        name=_name(name),
        source_run_id=run_id,
        tags={_MADE: weights_sha256, _EXTERNAL: "true"},
        params=dict(facts),
        model_type=_KIND,
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def used(client: MlflowClient, run_id: str, weights_sha256: Sequence[str]) -> None:
    """Make networks inputs of a run; those that no run of the store made are not known by it."""
    from mlflow.entities import LoggedModelInput

    found = [models[0].model_id for one in dict.fromkeys(weights_sha256) if (models := _models(client, one))]
    if found:
        client.log_inputs(run_id, models=[LoggedModelInput(one) for one in found])


def tag_version(client: MlflowClient, name: str, version: int, weights_sha256: str, values: Mapping[str, str]) -> None:
    """Set tags of a registered version, whatever is registered again of it later.

    Args:
        client: Of the store.
        name: Of the registered model.
        version: Its number, which says nothing in another registry.
        weights_sha256: Of the version: of other weights nothing is said.
        values: The tags.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        log.warning(
            "The registry has no version %d of %s: what was measured of it is not written there.", version, name
        )
        return
    if found.tags.get(_MADE) != weights_sha256:
        log.warning("Version %d of %s has other weights in this registry: nothing is written there.", version, name)
        return
    for key, value in values.items():
        client.set_model_version_tag(name, str(version), key, value)


def measured(client: MlflowClient, run_id: str, weights_sha256: str, metrics: Mapping[str, float]) -> None:
    """Write figures that a run measured of a network to the network's own page."""
    from mlflow.entities import Metric

    models = _models(client, weights_sha256)
    now = int(time.time() * 1000)
    rows = [
        Metric(name, float(value), now, 0, model_id=models[0].model_id, run_id=run_id)
        for name, value in metrics.items()
        if models and math.isfinite(value)
    ]
    if rows:
        client.log_batch(run_id, metrics=rows)


def to_fill(client: MlflowClient, run_id: str, weights_sha256: str) -> Any | None:
    """The logged model of a run that has no files yet; None where there is none."""
    found = [model for model in _models(client, weights_sha256) if model.source_run_id == run_id]
    return next((model for model in found if model.tags.get(REGISTERED) != "true"), None)


def _models(client: MlflowClient, weights_sha256: str) -> list[Any]:
    """The logged models of these weights, newest first."""
    wanted = f"tags.{_MADE} = '{weights_sha256}'"
    return list(client.search_logged_models(_experiments(client), filter_string=wanted))


def _experiments(client: MlflowClient) -> list[str]:
    return [str(one.experiment_id) for one in client.search_experiments()]


def _name(name: str) -> str:
    """A name that MLflow takes for a logged model."""
    return "".join("-" if one in "/:.\"%'" else one for one in name) or "model"
