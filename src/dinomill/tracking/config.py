"""Where runs and models are recorded."""

from __future__ import annotations

from pydantic import Field, field_validator

from dinomill.config import Config

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


class TrackingConfig(Config):
    """The MLflow store that a stage writes to."""

    tracking_uri: str = Field(
        default="sqlite:///data/mlflow/mlflow.db",
        description="sqlite:///path of a database file, or the http(s):// address of an MLflow server",
    )
    experiment: str = Field(default="dinomill", min_length=1, description="name of the MLflow experiment")

    @field_validator("tracking_uri")
    @classmethod
    def _a_store_that_mlflow_accepts(cls, uri: str) -> str:
        # Also `postgresql+psycopg2://` and the bare word `databricks`.
        scheme = uri.split(":", 1)[0].split("+", 1)[0]
        if scheme not in SCHEMES:
            raise ValueError(
                "MLflow 3 refuses file stores such as ./mlruns; use sqlite:///data/mlflow/mlflow.db "
                "for one machine, or the http(s):// address of a server"
            )
        return uri
