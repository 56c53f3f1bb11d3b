"""The evaluation stage as a Kedro pipeline."""
