"""Registration: the measured model as a version in the MLflow registry."""
