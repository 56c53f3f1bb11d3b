"""A worker of a few lines, and SLURM's commands in small."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.execution import slurm_here


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the commands of SLURM in PATH; the folder of their queue."""
    commands = slurm_here.install(tmp_path / "slurm here")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "slurm here" / "queue"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])
