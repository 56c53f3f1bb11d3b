"""The reporting stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.reporting.nodes import report


def create_pipeline() -> Pipeline:
    """Every handle of a run in, the page out."""
    handles = ["curated", "teacher", "students", "evaluation", "registration", "package"]
    return pipeline([node(report, [*handles, "labelled", "params:reporting"], "report", name="report")])
