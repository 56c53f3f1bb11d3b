"""The packaging stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.packaging.nodes import package


def create_pipeline() -> Pipeline:
    """Registered model, curated dataset and labelled images in, TorchServe package out."""
    inputs = ["registration", "curated", "labelled", "params:packaging"]
    return pipeline([node(package, inputs, "package", name="package")])
