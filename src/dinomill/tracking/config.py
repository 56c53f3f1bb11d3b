"""Where runs and models are recorded."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from dinomill.config import Config

DATABASES = ("postgresql", "mysql", "mssql")
SCHEMES = ("sqlite", *DATABASES, "http", "https", "databricks")


class TrackingConfig(Config):
    """The MLflow store that a stage writes to."""

    tracking_uri: str = Field(
        default="sqlite:///data/mlflow/mlflow.db",
        description="sqlite:///path of a database file, or the http(s):// address of an MLflow server",
    )
    experiment: str = Field(default="dinomill", min_length=1, description="name of the MLflow experiment")
    artifact_root: str | None = Field(
        default=None,
        min_length=1,
        description="where an experiment that is made keeps its files, such as s3://bucket/mlflow; null: beside the "
        "SQLite file, or where the server says",
    )

    @model_validator(mode="after")
    def _a_place_that_others_reach(self) -> Self:
        if self.artifact_root is None and self.tracking_uri.split(":", 1)[0].split("+", 1)[0] in DATABASES:
            raise ValueError(
                "a database keeps no files: state artifact_root, such as s3://bucket/mlflow or the absolute path of a "
                "folder that every machine mounts"
            )
        return self

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
