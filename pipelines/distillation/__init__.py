"""The distillation stage as a Kedro pipeline."""

from dinomill.pipelines.distillation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
