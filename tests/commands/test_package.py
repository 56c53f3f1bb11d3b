from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dinomill.commands.app import app
from dinomill.commands.failures import explain
from dinomill.commands.project import folder
from dinomill.handles import HANDLE_NAME, PackageHandle, ReportHandle
from dinomill.serving.litserve.places import folder_beside, note_folder, noted_folders
from dinomill.serving.litserve.settings import Settings
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


def test_it_says_how_to_go_on_in_the_environment(
    project: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    made = make_package(folder("package", "fashion"), backbone, 3)
    done = CliRunner().invoke(app, ["package", "--target", "torchserve", "--env", "fashion"])
    assert done.output.endswith("here: dinomill serve --env fashion\n")

    # As for TorchServe it is said which settings only a new package would take.
    settings = Settings(
        model="mill", version="3", weights_sha256="", archive_sha256="", limits={}, offers=(), worker={}, workers=0,
        batch_size=1, max_delay_ms=0, response_seconds=1, queue=1,
    )  # fmt: skip
    monkeypatch.setattr("dinomill.serving.litserve.folder.write_folder", lambda *_: settings)
    (project / "conf/local/parameters.yml").write_text("packaging: {server: {max_request_mb: 1, normalise: true}}")
    for output in ([], ["--output", str(tmp_path / "far")]):
        done = CliRunner().invoke(app, ["package", "--target", "litserve", "--env", "fashion", *output])
        assert "packaging.server.normalise is True, and the package was made with False" in done.output
        assert done.output.count("run packaging again") == 1
    work = folder("work", "fashion")
    assert noted_folders(work) == [tmp_path / "far"]
    for path in (tmp_path / "far", tmp_path / "other"):
        note_folder(work, path)
    assert noted_folders(work) == [tmp_path / "far", tmp_path / "other"]
    assert folder_beside(made) == made.parent / "package-litserve"


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
