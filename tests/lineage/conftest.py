from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.curation.conftest import planted  # noqa: F401 (a fixture)
from tests.lineage.mill import Mill, commit, keep, make_mill


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, planted: Any, backbone: Path) -> Iterator[Mill]:  # noqa: F811
    """A project with all parts, its dataset kept by DVC and committed."""
    before = Path.cwd()
    made = make_mill(tmp_path_factory.mktemp("mill") / "project", planted, backbone)
    keep(made.root)
    commit(made.root, "first dataset")
    import os

    os.chdir(before)
    yield made


@pytest.fixture
def mill(whole: Mill, monkeypatch: pytest.MonkeyPatch) -> Mill:
    """The same, as the working directory; only to read."""
    monkeypatch.chdir(whole.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return whole


@pytest.fixture
def own_mill(whole: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mill:
    """A copy, to change."""
    import shutil

    root = tmp_path / "project"
    shutil.copytree(whole.root, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return whole._replace(root=root, store=f"sqlite:///{root}/data/mlflow/mlflow.db")
