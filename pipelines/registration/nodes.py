"""The registration stage's node."""

from __future__ import annotations

from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, RegistrationHandle, StudentsHandle
from dinomill.registration.config import RegistrationConfig


def register(
    teacher: ModelHandle | None,
    students: StudentsHandle,
    evaluation: EvaluationHandle,
    curated: DatasetHandle,
    config: RegistrationConfig,
) -> RegistrationHandle:
    """Register the network in MLflow, as the champion if it passes the gate, and keep the cards with the run."""
    from dinomill import tracking
    from dinomill.registration.register import register_model

    teacher = students.taught_by_pretraining(teacher)
    handle = register_model(teacher, students, evaluation, curated, config)
    tracking.attach().log_artifacts(handle.folder / "cards", "cards")
    return handle
