"""A real SQLite store, made once: MLflow spends about three seconds on each new database."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{folder}/mlflow.db"
