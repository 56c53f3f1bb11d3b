"""The reporting stage as a Kedro pipeline."""
