"""The evaluation stage's node."""

from __future__ import annotations

from dinomill.evaluation.config import EvaluationConfig
from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, StudentsHandle, require


def evaluate(
    labelled: str | None,
    teacher: ModelHandle,
    students: StudentsHandle,
    curated: DatasetHandle,
    config: EvaluationConfig,
) -> EvaluationHandle:
    """Measure raw pixels, a random network, the teacher and the students on the labelled images."""
    from dinomill import tracking
    from dinomill.evaluation.evaluate import evaluate as measure
    from dinomill.evaluation.record import record, record_models

    require(teacher, "pretraining")
    handle = measure(labelled, teacher, students, config, curated)
    run = tracking.attach()
    record(run, handle, labelled)
    record_models(run, handle, teacher, students)
    return handle
