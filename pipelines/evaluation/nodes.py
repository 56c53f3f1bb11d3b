"""The evaluation stage's node."""

from __future__ import annotations

from dinomill.evaluation.config import EvaluationConfig
from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, ProbesHandle, StudentsHandle


def evaluate(
    labelled: str | None,
    teacher: ModelHandle | None,
    students: StudentsHandle,
    curated: DatasetHandle,
    config: EvaluationConfig,
) -> tuple[EvaluationHandle, ProbesHandle]:
    """Measure raw pixels, a random network, the teacher and the students on the labelled images."""
    from dinomill import tracking
    from dinomill.evaluation.evaluate import evaluate as measure
    from dinomill.evaluation.probes import PROBES
    from dinomill.evaluation.record import record, record_models

    teacher = students.taught_by_pretraining(teacher)
    handle = measure(labelled, teacher, students, config, curated)
    run = tracking.attach()
    shown = handle.with_times(config.work)
    record(run, shown, labelled)
    record_models(run, shown, teacher, students)
    return handle, ProbesHandle.load(handle.folder / PROBES)
