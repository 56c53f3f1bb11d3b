"""Environments side by side, with the real programs: make, dvc, kedro and dinomill agree on what is where."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.commands.programs import SMALL, run
from tests.conftest import PROJECT


@pytest.fixture
def small(project: Path) -> Path:
    """A project with DVC in which the sample takes a second, and two environments: `mine` has a sample of its own."""
    (project / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    shutil.copy(PROJECT / ".dvcignore", project)
    path = project / "conf/base/sample/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["sample"] |= SMALL
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    path = project / "conf/base/globals.yml"
    whole = path.read_text(encoding="utf-8")
    scenes = whole[whole.index("  - path: data/01_raw/sample/scenes") : whole.index("seeds:")]
    path.write_text(whole.replace(scenes, ""), encoding="utf-8")
    say(project, "theirs/globals.yml", {"data": "data/theirs", "work": "data/work/theirs"})
    raw = "data/mine/01_raw"
    own = {"pool": [f"{raw}/pool"], "seeds": {"own": f"{raw}/seeds"}, "labelled": f"{raw}/labelled"}
    own |= {"data": "data/mine", "work": "data/work/mine", "folders": {"sample": raw}}
    say(project, "mine/globals.yml", own)
    say(project, "mine/sample/parameters.yml", {"sample": {"originals": 60}})
    run(project, "dvc", "init", "--no-scm", "--quiet")
    return project


def say(project: Path, name: str, values: object) -> None:
    path = project / "conf" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def counted(project: Path, folder: str) -> int:
    return len([path for path in (project / folder).rglob("*") if path.is_file()])


def verdict(plan: str, stage: str) -> str:
    (line,) = (line for line in plan.splitlines() if line.startswith(stage))
    return line


@pytest.mark.slow
def test_each_environment_has_its_own_results_and_none_disturbs_another(small: Path) -> None:
    run(small, "dinomill", "dvc", "sync", "--env", "mine")
    run(small, "dinomill", "dvc", "sync", "--env", "theirs")
    run(small, "dvc", "repro", "conf/mine/dvc.yaml:sample")
    assert (small / "conf/mine/dvc.lock").is_file()
    assert not (small / "dvc.lock").exists()
    assert not (small / "data/01_raw").exists()
    planted = 5 * 4 + 8  # near and exact duplicates, garments, digits, drawings, broken files
    assert counted(small, "data/mine/01_raw/pool") == 60 + planted

    # What an environment takes from the base, DVC makes first: the check of the base's file, then the sample.
    say(small, "theirs/curation/parameters.yml", {"curation": {"scan": {"max_bad_fraction": 0}}})  # fails soon
    run(small, "dinomill", "dvc", "sync", "--env", "theirs")
    shown = run(small, "dvc", "repro", "conf/theirs/dvc.yaml:curation", code=255)
    assert shown.index("> kedro run --pipelines sample") < shown.index("> kedro run --env theirs --pipelines curation")
    assert counted(small, "data/01_raw/sample/pool") == 40 + planted

    assert "up to date" in verdict(run(small, "dinomill", "plan", "--env", "mine"), "sample")
    # What made it fail is said by the plan too, by its exit code as well.
    assert "up to date" in verdict(run(small, "dinomill", "plan", "--env", "theirs", code=1), "sample")
    assert "didn't change" in run(small, "dvc", "repro", "conf/mine/dvc.yaml:sample")
    path = small / "conf/mine/sample/parameters.yml"
    path.write_text("sample: {originals: 70}\n", encoding="utf-8")
    assert "sample in conf/mine/sample/parameters.yml" in run(small, "dinomill", "plan", "--env", "mine")
    assert "up to date" in verdict(run(small, "dinomill", "plan"), "sample")


def test_kedro_and_the_commands_read_the_same_environment(small: Path) -> None:
    run(small, "kedro", "run", "--env", "mine", "--pipelines", "sample")
    assert counted(small, "data/mine/01_raw/labelled") == 84
    shown = run(small, "dinomill", "doctor", "--env", "mine")
    assert "data/mine/01_raw/pool" in shown
    assert "data/01_raw/sample/pool does not exist" in run(small, "dinomill", "doctor").replace("\n", " ")
    assert "data/mine/" in run(small, "dinomill", "report", "--env", "mine", code=1)


@pytest.mark.slow
def test_a_changed_pool_is_watched_from_the_first_call(small: Path) -> None:
    run(small, "dinomill", "dvc", "sync")
    run(small, "dvc", "repro", "sample")
    own = small / "own"
    own.mkdir()
    images = sorted((small / "data/01_raw/sample/seeds").iterdir())
    for number, image in enumerate(images[:5]):
        shutil.copy(image, own / f"{number}{image.suffix}")
    every = {"pool": ["own"], "seeds": {"own": "own"}, "labelled": None}
    say(small, "local/globals.yml", every)

    # By itself, DVC refuses and says what to do; nothing of the stages ran.
    shown = run(small, "dvc", "repro", "curation", code=255)
    assert "dinomill dvc sync" in shown
    assert "+    - own" in shown
    assert "> kedro run" not in shown
    # The plan brings the file up to date: the sample, which is not used any more, is gone.
    plan = run(small, "dinomill", "plan")
    assert "5 files" in verdict(plan, "curation")
    assert not [line for line in plan.splitlines() if line.startswith("sample")]
    for number, image in enumerate(images[:10]):
        shutil.copy(image, own / f"new-{number}{image.suffix}")
    assert "15 files" in verdict(run(small, "dinomill", "plan"), "curation")
    # What is local holds in every environment.
    assert "15 files" in verdict(run(small, "dinomill", "plan", "--env", "theirs"), "curation")


def test_a_new_file_of_configuration_is_noticed(small: Path) -> None:
    run(small, "dinomill", "dvc", "sync", "--env", "theirs")
    say(small, "theirs/curation/parameters.yml", {"curation": {"scan": {"max_bad_fraction": 0.9}}})
    shown = run(small, "dvc", "repro", "conf/theirs/dvc.yaml:curation", code=255)
    assert "run `dinomill dvc sync --env theirs`" in shown
    assert "> kedro run --env theirs" not in shown  # DVC may make the base's sample first: it orders them as it likes


def test_make_takes_an_environment_from_its_command_line_alone() -> None:
    def would_run(*arguments: str) -> str:
        return run(PROJECT, "make", "-n", "run", *arguments)

    assert "dvc repro conf/fashion/dvc.yaml" in would_run("ENV=conf/fashion/")
    assert "dinomill summary --env fashion" in would_run("ENV=fashion")
    assert "dvc repro dvc.yaml" in would_run("ENV=local")
    os.environ["ENV"] = "fashion"  # as a shell's start-up file
    try:
        assert "dvc repro dvc.yaml" in would_run()
    finally:
        del os.environ["ENV"]


def test_what_an_environment_makes_is_ignored_by_git() -> None:
    paths = [
        "data/mine/05_model_input/curated/handle.json",
        "data/paper/x/06_models/.gitignore",
        "data/mine/configuration.txt",
    ]
    done = subprocess.run(["git", "check-ignore", *paths], cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("this copy of the project is no git repository")
    assert done.stdout.split() == paths
