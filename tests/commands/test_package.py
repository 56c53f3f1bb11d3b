from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dinomill.commands.app import app
from dinomill.commands.failures import explain
from dinomill.handles import HANDLE_NAME, PackageHandle, ReportHandle
from tests.serving.gateway.served import make_package


def _package(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("dinomill")
    return subprocess.run([program, "package", *arguments], cwd=project, capture_output=True, text=True, check=False)


def test_without_a_package_it_says_what_to_run(project: Path) -> None:
    done = _package(project, "--target", "torchserve")
    assert done.returncode == 1
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_is_copied_over_nothing_but_a_copy(
    project: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_package(project / "data/07_model_output/package", backbone, 3)
    monkeypatch.chdir(project)

    done = CliRunner().invoke(app, ["package", "--target", "torchserve", "--env", "fashion"])
    assert "make run ENV=fashion" in str(explain(done.exception or AssertionError("no package was needed")))

    def ask(output: Path, target: str = "torchserve") -> str:
        done = CliRunner().invoke(app, ["package", "--target", target, "--output", str(output)])
        assert done.exit_code == (1 if done.exception else 0)
        if done.exception and not isinstance(done.exception, SystemExit):
            return str(explain(done.exception) or "Traceback")
        return done.output

    assert "Traceback" not in ask(made)  # nothing is written
    other = tmp_path / "other"  # another stage's result
    shutil.copytree(made, other)
    handle = (other / HANDLE_NAME).read_text()
    (other / HANDLE_NAME).write_text(
        ReportHandle(folder=other, made_of="", page=other, page_sha256="").model_dump_json()
    )
    stage = shutil.copytree(made, project / "data" / "elsewhere")  # another environment's package
    PackageHandle.load(stage).model_copy(update={"folder": Path("data/elsewhere")}).save(within=stage)
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / HANDLE_NAME).write_text(handle)
    for output in (other, stage, partial):
        before = sorted(output.rglob("*"))
        assert "holds something else" in ask(output)
        assert sorted(output.rglob("*")) == before
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(made)
    for target in ("torchserve", "litserve"):
        for output in (made / "within", made.parent, project, tmp_path / "link" / "within"):
            assert "lies in it, or holds it" in ask(output, target)
        for output in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/x")):
            assert "Cannot write" in ask(output, target)
    assert "lies in it" in ask(made, "litserve")
    copied = tmp_path / "copied"
    for _ in range(2):
        assert "version 3" in ask(copied)
    assert PackageHandle.load(copied).archive_sha256 == PackageHandle.load(made).archive_sha256


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
