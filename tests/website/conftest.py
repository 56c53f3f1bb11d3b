"""A copy of what the site is made of, in which a test may spoil a page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import PROJECT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's pages and code, without results."""
    for name in ("docs", "website", "conf", "benchmarks", "data/00_shipped"):
        ignored = shutil.ignore_patterns("local", "__pycache__", "*.json", ".venv*")
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=ignored)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"):
        shutil.copy(PROJECT / name, tmp_path / name)
    for name in ("src", "pipelines", "tests", "requirements", "NOTICE", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "conf/local").mkdir()
    return tmp_path
