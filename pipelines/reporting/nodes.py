"""The reporting stage's node."""

from __future__ import annotations

from dinomill.handles import (
    DatasetHandle,
    EvaluationHandle,
    ModelHandle,
    PackageHandle,
    RegistrationHandle,
    ReportHandle,
    StudentsHandle,
)
from dinomill.reporting.config import ReportingConfig


def report(
    curated: DatasetHandle,
    teacher: ModelHandle | None,
    students: StudentsHandle,
    evaluation: EvaluationHandle,
    registration: RegistrationHandle,
    package: PackageHandle,
    labelled: str | None,
    config: ReportingConfig,
) -> ReportHandle:
    """Draw the page and keep it with the stage's MLflow run."""
    from dinomill import tracking
    from dinomill.reporting import RunHandles, build_report

    teacher = students.taught_by_pretraining(teacher)
    shown = evaluation.with_times(config.evaluation_work)
    run = RunHandles(curated, teacher, students, shown, registration, package, labelled)
    handle = build_report(run, config)
    recorded = tracking.attach()
    recorded.log_artifacts(handle.page)
    recorded.rename(f"reporting · {registration.model}, version {registration.version}")
    return handle
