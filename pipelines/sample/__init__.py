"""The sample stage as a Kedro pipeline."""

from dinomill.pipelines.sample.pipeline import create_pipeline

__all__ = ["create_pipeline"]
