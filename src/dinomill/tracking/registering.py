"""Registering an exported folder as a version of a model.

A version's artifacts, as MLflow lays them out:

    MLmodel                       flavour, signature, metadata
    data/<name>/                  our export: config.json and model.safetensors (never a pickle)
    input_example.json            what `predict` takes
    requirements.txt              what it needs
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.tracking.connection import connect, tracking_errors
from dinomill.tracking.made import REGISTERED, made, to_fill
from dinomill.tracking.registry import WEIGHTS_TAG, RegisteredVersion, as_version
from dinomill.tracking.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ModelCard:
    """What is registered beside the weights.

    Args:
        loader: Module with ``_load_pyfunc(folder)``, which MLflow imports to serve the model; it runs no code from
            the artifacts.
        example: A table that ``predict`` takes: a column ``image`` of encoded images.
        embed_dim: Width D of the embedding that ``predict`` returns.
        requirements: Pip requirements of a process that serves it.
        settings: What whoever loads it may set (MLflow's ``model_config``), with defaults.
        parameters: What a call may set, each on or off (MLflow's ``params``), with defaults.
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
    settings: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, bool] = field(default_factory=dict)


def register(run: Run, name: str, folder: Path, card: ModelCard, *, made_by: str | None = None) -> RegisteredVersion:
    """Log ``folder`` as a model and make it the next version of ``name``.

    Args:
        run: The run that registers it.
        name: Of the registered model.
        folder: What is kept: no more than serving needs.
        card: What is said of it.
        made_by: The run that trained it, to which the version's page then leads; None: the one that registers.

    Raises:
        MachineError: When the store refuses it.
    """
    assert run.run_id is not None, "a model is registered from an open run"
    client = connect(run.tracking_uri)
    with tracking_errors(run.tracking_uri):
        source = made_by or run.run_id
        model_id = _logged_model(client, source, card)
        _fill(client, run.run_id, model_id, folder, card)
        _ensure_model(client, name, card.summary)
        created = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=source,
            tags=dict(card.tags),
            description=card.description,
            model_id=model_id,
        )
    return as_version(created)


def _logged_model(client: MlflowClient, source: str, card: ModelCard) -> str:
    """The model that the training logged, which has no files yet; or a new one of that run."""
    weights = card.tags.get(WEIGHTS_TAG, "")
    if weights and (waiting := to_fill(client, source, weights)) is not None:
        return str(waiting.model_id)
    made(client, source, card.tags.get("model", "backbone"), weights, {}, again=True)
    found = to_fill(client, source, weights)
    assert found is not None, "it was made just now"
    return str(found.model_id)


def _fill(client: MlflowClient, run_id: str, model_id: str, folder: Path, card: ModelCard) -> None:
    """Give a logged model its files, its figures and its tags."""
    import mlflow
    import numpy as np
    from mlflow.entities import LoggedModelInput, Metric
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    parameters = [ParamSpec(name, "boolean", default) for name, default in card.parameters.items()]
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, card.embed_dim), "embedding")]),
        **({"params": ParamSchema(parameters)} if parameters else {}),
    )
    mlflow.pyfunc.log_model(
        model_id=model_id,
        loader_module=card.loader,
        data_path=str(folder),
        signature=signature,
        model_config=dict(card.settings) or None,
        input_example=card.example,
        pip_requirements=list(card.requirements),
        metadata={"format": "dinomill", **card.tags},
    )
    client.set_logged_model_tags(model_id, {**card.tags, REGISTERED: "true"})
    client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    now = int(time.time() * 1000)
    rows = [
        Metric(name, float(value), now, 0, model_id=model_id, run_id=run_id) for name, value in card.metrics.items()
    ]
    client.log_batch(run_id, metrics=[row for row in rows if math.isfinite(row.value)])


def _ensure_model(client: MlflowClient, name: str, summary: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=summary)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_registered_model(name, description=summary)
