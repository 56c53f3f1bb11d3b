"""The code of a version in a folder of its own: real git repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from dinomill.errors import InputError
from dinomill.reproduction.checkout import RECORDED, check_folder, check_out, lay_settings
from dinomill.reproduction.recorded import Recorded
from dinomill.tracking import RegisteredVersion, RunFacts


def git(where: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(("git", *who, *arguments), cwd=where, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository of two commits, and a change that is in none."""
    root = tmp_path / "project"
    (root / "src/dinomill").mkdir(parents=True)
    (root / "pipelines").mkdir()
    (root / "pipelines/__init__.py").touch()
    (root / "conf/base/pretraining").mkdir(parents=True)
    (root / "conf/base/globals.yml").write_text("data: data\n")
    settings = root / "conf/base/pretraining/parameters.yml"
    (root / "src/dinomill/__init__.py").touch()
    git(tmp_path, "init", "--quiet", str(root))
    for steps in (8, 16):
        settings.write_text(f"pretraining: {{steps: {steps}, crops: {{sides: [4, 8]}}}}\n")
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--no-gpg-sign", "-m", str(steps))
    settings.write_text("pretraining: {steps: 99}\n")
    return root


def test_code_is_that_of_the_commit_and_the_project_stays_as_it_is(project: Path, tmp_path: Path) -> None:
    first = git(project, "rev-parse", "HEAD~1")
    made = check_out(project, first, tmp_path / "again")
    assert made == tmp_path / "again"
    assert "steps: 8" in (made / "conf/base/pretraining/parameters.yml").read_text()
    assert "steps: 99" in (project / "conf/base/pretraining/parameters.yml").read_text()
    assert (made / "src/dinomill/pipelines").resolve() == made / "pipelines"
    with pytest.raises(InputError, match="is there already"):
        check_folder(made)


def test_a_commit_that_no_branch_leads_to_is_found_and_one_that_is_gone_is_named(project: Path, tmp_path: Path) -> None:
    lost = git(project, "rev-parse", "HEAD")
    git(project, "reset", "--quiet", "--hard", "HEAD~1")
    made = check_out(project, lost, tmp_path / "again")
    assert "steps: 16" in (made / "conf/base/pretraining/parameters.yml").read_text()
    with pytest.raises(InputError, match="has no remote") as raised:
        check_out(project, "0" * 40, tmp_path / "other")
    assert "git fetch" in str(raised.value) and not (tmp_path / "other").exists()


@pytest.mark.parametrize("kept", [True, False])
def test_settings_that_the_commit_lacks_are_written_down(project: Path, tmp_path: Path, *, kept: bool) -> None:
    """With the whole configuration that newer runs keep, and with the texts alone that MLflow has of older ones."""
    made = check_out(project, git(project, "rev-parse", "HEAD"), tmp_path / "again")
    params = {"pretraining.steps": "20", "pretraining.crops.sides": "4, 6", "pretraining.seed": "3"}
    whole = {"pretraining": {"steps": 20, "crops": {"sides": [4, 6]}, "seed": 3}} if kept else {}
    run = RunFacts("1", {}, params, whole)
    version = RegisteredVersion("m", 1, (), "", {"network": "teacher"})
    differing = lay_settings(made, None, Recorded(version, run, None))
    assert differing == {
        "pretraining.steps": (16, 20),
        "pretraining.crops.sides": ([4, 8], [4, 6]),
        "pretraining.seed": (None, 3),
    }
    assert yaml.safe_load((made / RECORDED).read_text()) == {
        "pretraining": {"steps": 20, "crops": {"sides": [4, 6]}, "seed": 3}
    }
