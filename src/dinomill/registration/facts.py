"""What a version says of itself in the registry, as tags and figures."""

from __future__ import annotations

from dinomill import tracking
from dinomill.handles import EvaluationHandle, ModelHandle
from dinomill.licences import of_handle
from dinomill.models.known import UNKNOWN_LICENCE
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.gate import Check, labelled_tag


def identity(model: ModelHandle) -> dict[str, str]:
    """The tags by which a version of the same weights and data is found."""
    return {tracking.WEIGHTS_TAG: model.weights_sha256, tracking.DATASET_TAG: model.dataset_sha256}


def figures(model: ModelHandle, config: RegistrationConfig, evaluation: EvaluationHandle) -> dict[str, float]:
    """Every figure of the model: by measure, those of further sets by set and measure."""
    return {
        name if on is None else f"{on}/{name}": figure.value
        for on, table in evaluation.tables().items()
        for score in table.scores
        if score.model == model.name and score.kind == config.network
        for name, figure in score.scores.items()
    }


def facts(
    model: ModelHandle, evaluation: EvaluationHandle, checks: tuple[Check, ...], config: RegistrationConfig
) -> dict[str, str]:
    """What it is, what it was made of, what was measured of it, and whether it passed."""
    measured = {name: f"{value:.6f}" for name, value in figures(model, config, evaluation).items()}
    images: dict[str, str | None] = {
        labelled_tag(f"{on}/" if on else ""): table.labelled_sha256 for on, table in evaluation.tables().items()
    }
    # The registry's list shows the first few only.
    tags = {
        "gate": "passed" if all(check.passed for check in checks) else "failed",
        **measured,
        "model": model.name,
        "network": config.network,
        "embed_dim": str(model.embed_dim),
        "parameters": str(model.parameters),
        "image_size": str(model.image_size),
        "licence": of_handle(model).licence or UNKNOWN_LICENCE,
        "origin": model.origin,
        **identity(model),
        "teacher_sha256": model.teacher_sha256,
        "initial_sha256": model.initial_sha256,
        **images,
        "made_of": model.made_of,
        "git_commit": tracking.git_commit(),
    }
    return {key: value for key, value in tags.items() if value}
