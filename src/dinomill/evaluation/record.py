"""The evaluation in MLflow: scores as metrics, the table and plots as artifacts, the labelled images as a dataset."""

from __future__ import annotations

import json

from dinomill.handles import EvaluationHandle
from dinomill.tracking import Run


def record(run: Run, handle: EvaluationHandle, labelled: str | None) -> None:
    """Write an evaluation to its run.

    Args:
        run: The stage's run.
        handle: The evaluation.
        labelled: The labelled folder; None when nothing was measured.
    """
    for score in handle.scores:
        name = f"{score.kind}-{score.model}" if score.kind in ("student", "reference") else score.kind
        run.log_metrics({f"{name}/knn": score.knn, f"{name}/linear": score.linear})
    if labelled is None:
        run.set_tags({"labelled": "none"})
        return
    found = json.loads((handle.folder / "results.json").read_text(encoding="utf-8"))
    gains = {
        f"gain/{name}/{probe}": leaf["value"]
        for name, probes in found["gain"].items()
        for probe, leaf in probes.items()
    }
    run.log_metrics(gains)
    run.log_dataset(
        "labelled",
        found["images"]["sha256"],
        labelled,
        context="evaluation",
        rows=handle.bank_images + handle.query_images,
    )
    for name in ("scores.csv", "results.json", "plots"):
        run.log_artifacts(handle.folder / name, "plots" if name == "plots" else None)
