"""The curation stage as a Kedro pipeline."""
