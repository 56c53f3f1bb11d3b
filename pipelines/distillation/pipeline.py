"""The distillation stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.distillation.nodes import distil


def create_pipeline() -> Pipeline:
    """Teacher and curated dataset in, students out."""
    inputs = ["curated", "teacher", "labelled", "params:distillation"]
    return pipeline([node(distil, inputs, "students", name="distillation")])
