"""The pretraining stage's wiring."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from dinomill.pipelines.pretraining.nodes import pretrain


def create_pipeline() -> Pipeline:
    """Curated dataset in, teacher out."""
    return pipeline([node(pretrain, ["curated", "labelled", "params:pretraining"], "teacher", name="pretraining")])
