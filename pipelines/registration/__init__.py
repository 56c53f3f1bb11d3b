"""The registration stage as a Kedro pipeline."""
