"""The curation stage as a Kedro pipeline."""

from dinomill.pipelines.curation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
