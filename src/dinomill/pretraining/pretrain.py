"""Pretraining: a curated dataset in, a teacher out.

<output>/handle.json           ModelHandle
<output>/config.json           shape and preprocessing
<output>/model.safetensors     the teacher's backbone: the moving average of the student
<output>/heads.safetensors     its heads, which distillation learns from
<output>/history.parquet       the curve
<output>/start/                the backbone that it started from, where it started from weights: an export as well
"""

from __future__ import annotations

import logging

from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle, ModelHandle
from dinomill.images.channels import conversion, converted_figures
from dinomill.licences import STARTED, from_nothing, made_from, warn_if_unknown
from dinomill.pretraining.config import PretrainingConfig
from dinomill.storage.apart import require_apart
from dinomill.training.hand_on import adopt, local_labelled, run_job
from dinomill.training.job import TrainingJob, TrainingRecipe
from dinomill.training.starting import resolve_model, starting_weights

log = logging.getLogger(__name__)

_STUDENT = "student"


def pretrain(dataset: DatasetHandle, labelled: str | None, config: PretrainingConfig) -> ModelHandle:
    """Train a backbone on a curated dataset.

    Args:
        dataset: What to train on.
        labelled: Labelled images by which the monitor tells whether it learns; they are never trained on.
        config: The stage's configuration.

    Raises:
        ConfigError: When model and dataset do not fit, or it would write over the weights that it starts from.
        Interrupted: When it was told to stop; run again, it continues.
        DinomillError: What went wrong in a worker.
    """
    if config.initial is not None:
        require_apart("pretraining.initial", config.initial, config.output)
    job = pretraining_job(dataset, labelled, config)
    seen = job.models[_STUDENT].in_channels
    if said := conversion(dataset.channels, seen, f"{dataset.folder}", f"{config.initial}"):
        log.warning(said)
    warn_if_unknown(job.licence, f"the weights {config.initial}", "pretraining.licence")
    run_job(job, config.launcher, dataset)
    return adopt(job, dataset, student=_STUDENT, name=config.name, output=config.output, initial=config.initial)


def pretraining_job(dataset: DatasetHandle, labelled: str | None, config: PretrainingConfig) -> TrainingJob:
    """The resolved job of a configuration."""
    weights = None if config.initial is None else starting_weights(config.initial)
    if config.adaptation is not None and weights is None and config.model != "from_weights":
        raise ConfigError(
            "pretraining.adaptation is set, and there are no weights to adapt.",
            found="pretraining.initial: null",
            action="name the weights in pretraining.initial, or set pretraining.adaptation to null",
        )
    model = resolve_model(config.model, weights, dataset.channels, dataset=f"the dataset {dataset.folder}")
    provenance = (
        from_nothing(config.licence)
        if weights is None
        else made_from(STARTED, weights.address, weights.provenance, config.licence, key="pretraining.licence")
    )
    drawn = None if config.model == "from_weights" else config.model.initialisation
    return TrainingJob(
        stage="pretraining",
        recipe=TrainingRecipe(**{name: getattr(config, name) for name in TrainingRecipe.model_fields}),
        models={_STUDENT: model},
        initialisation=None if drawn is None else {_STUDENT: drawn},
        step=config.step,
        runtime=config.runtime,
        dataset=dataset.folder,
        dataset_sha256=dataset.manifest_sha256,
        initial=weights and weights.local,
        initial_sha256=weights and weights.sha256,
        mean=_figures(None if weights is None else weights.mean, dataset.mean, model.in_channels),
        std=_figures(None if weights is None else weights.std, dataset.std, model.in_channels),
        adaptation=config.adaptation,
        licence=provenance.licence,
        origin=provenance.origin,
        labelled=local_labelled(labelled),
        work_root=config.work,
    )


def _figures(theirs: tuple[float, ...] | None, of_images: tuple[float, ...], channels: int) -> tuple[float, ...] | None:
    """What images are normalised with: as the weights say; None: as the dataset says, where it has their channels."""
    if theirs is not None or len(of_images) == channels:
        return theirs
    return converted_figures(of_images, channels)
