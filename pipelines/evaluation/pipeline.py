"""The evaluation stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.evaluation.nodes import evaluate


def create_pipeline() -> Pipeline:
    """Labelled images, teacher and students in, table of scores and linear probes out."""
    inputs = ["labelled", "teacher", "students", "curated", "params:evaluation"]
    return pipeline([node(evaluate, inputs, ["evaluation", "probes"], name="evaluate")])
