"""The evaluation in MLflow: scores as metrics, tables and plots as artifacts, the labelled images as datasets."""

from __future__ import annotations

from dinomill.handles import EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.scores import NAMED_KINDS, ScoreTable
from dinomill.tracking import Run


def record(run: Run, handle: EvaluationHandle, labelled: str | None) -> None:
    """Write an evaluation to its run.

    Args:
        run: The stage's run.
        handle: The evaluation.
        labelled: The labelled folder; None when there was none.
    """
    tables = handle.tables()
    for name, table in tables.items():
        prefix = "" if name is None else f"{name}/"
        run.log_metrics({f"{prefix}{key}": value for key, value in _metrics(table).items()})
        run.log_dataset(
            name or "labelled",
            table.labelled_sha256 or "",
            labelled if name is None and labelled is not None else str(name),
            context="evaluation",
            rows=table.bank_images + table.query_images,
        )
    if labelled is None:
        run.set_tags({"labelled": "none"})
    if tables:
        for name in ("scores.csv", "results.json", "plots", "sets"):
            if (handle.folder / name).exists():
                run.log_artifacts(handle.folder / name, name if (handle.folder / name).is_dir() else None)


def record_models(run: Run, handle: EvaluationHandle, teacher: ModelHandle | None, students: StudentsHandle) -> None:
    """Make the networks inputs of the run, and write their figures to their own pages.

    Args:
        run: The stage's run.
        handle: The evaluation.
        teacher: That was measured; None: it is another's, and its row names no network of ours.
        students: That were measured.
    """
    measured = {} if teacher is None else {("teacher", teacher.name): teacher.weights_sha256}
    measured |= {("student", name): one.weights_sha256 for name, one in students.students.items()}
    run.log_models_used([*measured.values(), handle.champion_sha256])
    for name, table in handle.tables().items():
        prefix = "" if name is None else f"{name}/"
        for row in table.scores:
            if weights := measured.get((row.kind, row.model)):
                figures = {f"{prefix}{measure}": figure.value for measure, figure in row.scores.items()}
                run.log_model_metrics(weights, figures)
    best = handle.score("student") or handle.score("teacher")
    if best is not None:
        first = handle.measures[0]
        run.rename(f"evaluation · {best.model} {first.title} {first.show(best.value(first.name))}")


def _metrics(table: ScoreTable) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in table.scores:
        label = f"{row.kind}-{row.model}" if row.kind in NAMED_KINDS else row.kind
        found |= {f"{label}/{measure}": figure.value for measure, figure in row.scores.items()}
    found |= {
        f"gain/{name}/{measure}": gain.value for name, gains in table.gains.items() for measure, gain in gains.items()
    }
    return found
