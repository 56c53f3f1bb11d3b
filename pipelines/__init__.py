"""Kedro wiring of the stages: nodes and pipelines, nothing else."""
