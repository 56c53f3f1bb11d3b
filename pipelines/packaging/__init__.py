"""The packaging stage as a Kedro pipeline."""
