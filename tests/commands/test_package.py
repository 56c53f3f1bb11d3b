from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.handles import PackageHandle
from tests.serving.gateway.served import make_package


def _package(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("dinomill")
    return subprocess.run([program, "package", *arguments], cwd=project, capture_output=True, text=True, check=False)


def test_without_a_package_it_says_what_to_run(project: Path) -> None:
    done = _package(project, "--target", "torchserve")
    assert done.returncode == 1
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_package_becomes_a_folder_for_either_server(project: Path, backbone: Path, tmp_path: Path) -> None:
    made = make_package(project / "data/07_model_output/package", backbone, 3)
    done = _package(project, "--target", "litserve")
    assert done.returncode == 0, done.stderr
    assert "cosine 1.000000" in done.stdout
    folder = project / "data/07_model_output/package-litserve"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "dinomill", "handle.json", "model", "requirements.txt", "server.py", "settings.json")
    }
    assert not list(folder.rglob("__pycache__"))
    copied = tmp_path / "copied"
    done = _package(project, "--target", "torchserve", "--output", str(copied))
    assert done.returncode == 0, done.stderr
    assert PackageHandle.load(copied).archive_sha256 == PackageHandle.load(made).archive_sha256
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for target in ("litserve", "torchserve"):
        done = _package(project, "--target", target, "--output", str(tmp_path / "mine"))
        assert done.returncode == 1
        assert "holds something else" in done.stderr
