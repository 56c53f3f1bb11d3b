"""The reporting stage as a Kedro pipeline."""

from dinomill.pipelines.reporting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
