"""The pretraining stage as a Kedro pipeline."""
