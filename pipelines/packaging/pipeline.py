"""The packaging stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.packaging.nodes import package


def create_pipeline() -> Pipeline:
    """Registered model and curated dataset in, TorchServe package out."""
    return pipeline([node(package, ["registration", "curated", "params:packaging"], "package", name="package")])
