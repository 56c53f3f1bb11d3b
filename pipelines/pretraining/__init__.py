"""The pretraining stage as a Kedro pipeline."""

from dinomill.pipelines.pretraining.pipeline import create_pipeline

__all__ = ["create_pipeline"]
