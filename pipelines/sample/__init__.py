"""The sample stage as a Kedro pipeline."""
