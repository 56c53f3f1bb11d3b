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
    from dinomill.registration.register import register_model

    teacher = students.taught_by_pretraining(teacher)
    return register_model(teacher, students, evaluation, curated, config)
