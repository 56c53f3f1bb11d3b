"""Handles of a small exported network with made-up scores, and one SQLite store for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, StudentsHandle
from tests.exported import export
from tests.tables import MEASURES, row


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def teacher(tmp_path: Path) -> ModelHandle:
    return export(tmp_path / "teacher", "vit-nano", depth=1, seed=1)


@pytest.fixture
def students(tmp_path: Path) -> StudentsHandle:
    student = export(tmp_path / "students" / "small", "small", depth=1, seed=2)
    return StudentsHandle(folder=tmp_path / "students", made_of="0" * 64, students={"small": student}, champion="small")


@pytest.fixture
def curated(tmp_path: Path) -> DatasetHandle:
    return DatasetHandle(
        folder=tmp_path / "curated",
        made_of="0" * 64,
        manifest=tmp_path / "curated" / "manifest.parquet",
        manifest_sha256="d" * 64,
        shards=(),
        images=900,
        pool_images=1300,
        fates={"kept": 900, "near_duplicate": 400},
        channels=3,
        mean=(0.3,) * 3,
        std=(0.35,) * 3,
        embedder="efficientnet-lite0",
        sources=("data/01_raw/pool",),
    )


Evaluated = Callable[..., EvaluationHandle]


@pytest.fixture
def evaluated(tmp_path: Path) -> Evaluated:
    def make(
        *, student: float = 0.8, teacher: float = 0.82, random: float = 0.6, images: str = "e" * 64
    ) -> EvaluationHandle:
        rows = [
            ("raw pixels", "pixels", 0.7),
            ("random initialisation", "random", random),
            ("vit-nano", "teacher", teacher),
            ("small", "student", student),
        ]
        metrics = tmp_path / "evaluation" / "metrics.json"
        metrics.parent.mkdir(exist_ok=True)
        return EvaluationHandle(
            folder=metrics.parent,
            made_of="0" * 64,
            scores=tuple(row(name, kind, knn=value, linear=value + 0.02, reach=0.02) for name, kind, value in rows),
            measures=MEASURES,
            labelled_sha256=images,
            bank_images=2000,
            query_images=1000,
            classes=("a", "b"),
            metrics=metrics,
        )

    return make
