"""The registration stage as a Kedro pipeline."""

from dinomill.pipelines.registration.pipeline import create_pipeline

__all__ = ["create_pipeline"]
