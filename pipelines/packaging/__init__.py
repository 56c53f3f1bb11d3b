"""The packaging stage as a Kedro pipeline."""

from dinomill.pipelines.packaging.pipeline import create_pipeline

__all__ = ["create_pipeline"]
