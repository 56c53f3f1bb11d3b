"""The code of a version in a folder of its own: real git repositories."""

from __future__ import annotations

import json
import subprocess
from hashlib import md5
from pathlib import Path

import pytest
import yaml

from dinomill.errors import InputError
from dinomill.layers import Layers
from dinomill.reproduction.checkout import (
    RECORDED,
    bring_environment,
    check_folder,
    check_out,
    lay_settings,
    stay_inside,
)
from dinomill.reproduction.recorded import Recorded
from dinomill.tracking import RegisteredVersion, RunFacts
from dinomill.tracking.dvc_commits import lock_of


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


def test_an_environment_that_was_never_committed_is_taken_as_it_is_here(project: Path, tmp_path: Path) -> None:
    made = check_out(project, git(project, "rev-parse", "HEAD"), tmp_path / "again")
    assert not bring_environment(project, made, None)
    with pytest.raises(InputError, match="conf/photos, in which the version was trained") as raised:
        bring_environment(project, made, "photos")
    assert "git add conf/photos" in str(raised.value)
    (project / "conf/photos").mkdir()
    (project / "conf/photos/globals.yml").write_text("data: data/photos\n")
    assert bring_environment(project, made, "photos")
    assert (made / "conf/photos/globals.yml").read_text() == "data: data/photos\n"
    assert not bring_environment(project, made, "photos")


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


LOCK = """\
schema: '2.0'
stages:
  pretraining:
    cmd: x
    deps:
    - path: data/05_model_input/curated
      hash: md5
      md5: 11111111111111111111111111111111.dir
    params:
      conf/base/pretraining/parameters.yml:
        pretraining:
          steps: 16
          crops: {sides: [4, 8]}
          learning_rate: 1e-05
      conf/base/parameters_places.yml:
        pretraining: {output: "${globals:folders.teacher}"}
      conf/local/parameters.yml:
        pretraining: {steps: 20, output: /elsewhere/teacher}
      conf/local/globals.yml:
        data: /elsewhere
        labelled: images/labelled
    outs:
    - path: data/06_models/teacher
      hash: md5
      md5: 22222222222222222222222222222222.dir
"""


def test_without_the_run_the_first_commit_whose_lock_has_it_says_code_settings_and_data(
    project: Path, tmp_path: Path
) -> None:
    """A clone has no MLflow: `dinomill reproduce` refused, although all was there."""
    git(project, "checkout", "--quiet", "conf")
    (project / "conf/base/globals.yml").write_text("data: data\nfolders: {teacher: data/06_models/teacher}\n")
    (project / "dvc.lock").write_text(LOCK)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--no-gpg-sign", "-m", "trained")
    trained = git(project, "rev-parse", "HEAD")
    (project / "dvc.lock").write_text(LOCK.replace("data/05_model_input", "data/06_model_input"))
    (project / "conf/base/pretraining/parameters.yml").write_text("pretraining: {steps: 99}\n")
    git(project, "commit", "--quiet", "--all", "--no-gpg-sign", "-m", "later")

    lock = lock_of(project, ["data/06_models/teacher"], "2" * 32 + ".dir")
    assert lock is not None and (lock.commit, lock.environment) == (trained, None)
    version = RegisteredVersion("m", 1, (), "", {"network": "teacher", "git_commit": "0" * 40})
    found = Recorded(version, None, None, lock)
    assert (found.commit, found.dirty, found.stages) == (trained, False, ("pretraining",))
    assert found.tags_with("data/05_model_input/curated")["dvc_curated"] == "1" * 32 + ".dir"
    made = check_out(project, found.commit, tmp_path / "again")
    assert lay_settings(made, None, found) == {
        "globals: labelled": (None, "images/labelled"),
        "pretraining.steps": (16, 20),
        "pretraining.learning_rate": (None, 1e-05),
    }
    assert yaml.safe_load((made / RECORDED).read_text()) == {"pretraining": {"steps": 20, "learning_rate": 1e-05}}
    # Where results lie is the folder's own affair: over there they are somebody's.
    assert yaml.safe_load((made / "conf/local/globals.yml").read_text()) == {"labelled": "images/labelled"}


def test_a_lock_is_told_by_weights_where_nobody_tagged_it_and_no_other_is_taken_for_it(project: Path) -> None:
    handle = b'{"weights_sha256": "abc"}'
    cache = project / ".dvc/cache/files/md5"
    listed = [{"md5": md5(handle, usedforsecurity=False).hexdigest(), "relpath": "handle.json"}]
    for name, data in (("22" * 16 + ".dir", json.dumps(listed).encode()), (listed[0]["md5"], handle)):
        (cache / name[:2]).mkdir(parents=True)
        (cache / name[:2] / name[2:]).write_bytes(data)
    (project / "conf/photos").mkdir()
    (project / "conf/photos/dvc.lock").write_text(LOCK)
    git(project, "add", "conf")
    git(project, "commit", "--quiet", "--no-gpg-sign", "-m", "trained")
    folder = ["data/06_models/teacher"]
    found = lock_of(project, folder, None, lambda one: one["weights_sha256"] == "abc")
    assert found is not None and found.environment == "photos"
    assert lock_of(project, folder, "3" * 32 + ".dir", lambda one: one["weights_sha256"] == "def") is None
    assert lock_of(project, ["data/other"], "2" * 32 + ".dir") is None


def test_a_stage_writes_into_the_new_folder_wherever_the_run_wrote(project: Path, tmp_path: Path) -> None:
    """A project with `data` elsewhere would have had its present teacher replaced by the one that was made again."""
    made = check_out(project, git(project, "rev-parse", "HEAD"), tmp_path / "again")
    whole = {"pretraining": {"steps": 20, "output": "/elsewhere/teacher", "work": "/elsewhere/work"}}
    version = RegisteredVersion("m", 1, (), "", {"network": "teacher"})
    differing = lay_settings(made, None, Recorded(version, RunFacts("1", {}, {}, whole), None))
    assert differing == {"pretraining.steps": (16, 20)}


def test_places_that_the_commit_names_outside_are_the_new_folders(project: Path, tmp_path: Path) -> None:
    """With `data` on another disk, in a committed environment, the team's teacher would have been replaced."""
    made = check_out(project, git(project, "rev-parse", "HEAD"), tmp_path / "again")
    assert stay_inside(made, None) == []
    globals_ = made / "conf/base/globals.yml"
    globals_.write_text("data: /big/disk\nwork: ../work\nfolders: {teacher: '${data}/06_models/teacher'}\n")
    assert stay_inside(made, None) == ["data", "work"]
    layers = Layers(None, conf=made / "conf")
    assert layers.globals["folders"]["teacher"] == "data/06_models/teacher" and layers.globals["work"] == "data/work"
    globals_.write_text("data: data\nfolders: {teacher: /big/disk/teacher}\n")
    with pytest.raises(InputError, match="over what lies at /big/disk/teacher"):
        stay_inside(made, None)
