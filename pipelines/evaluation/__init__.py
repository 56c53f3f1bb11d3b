"""The evaluation stage as a Kedro pipeline."""

from dinomill.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
