"""The distillation stage as a Kedro pipeline."""
