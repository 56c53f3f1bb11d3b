"""The sample stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.sample.nodes import lay_out


def create_pipeline() -> Pipeline:
    """The shipped photographs in, a messy pool out."""
    return pipeline([node(lay_out, "params:sample", "sample", name="lay_out")])
