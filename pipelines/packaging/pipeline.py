"""The packaging stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.packaging.nodes import package


def create_pipeline() -> Pipeline:
    """Registered model, curated dataset, labelled images and evaluation's probes in, TorchServe package out."""
    inputs = ["registration", "curated", "labelled", "probes", "params:packaging"]
    return pipeline([node(package, inputs, "package", name="package")])
