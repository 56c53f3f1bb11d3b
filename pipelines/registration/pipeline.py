"""The registration stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.registration.nodes import register


def create_pipeline() -> Pipeline:
    """Networks, their scores and their data in, registered version out."""
    inputs = ["teacher", "students", "evaluation", "curated", "params:registration"]
    return pipeline([node(register, inputs, "registration", name="register")])
