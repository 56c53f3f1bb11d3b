"""What a version says of its origin, in a project of git's and DVC's: more is known later, and then it is added."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from dinomill import tracking
from dinomill.handles import DatasetHandle, EvaluationHandle, RegistrationHandle, StudentsHandle
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.register import register_model
from tests.commands.programs import run
from tests.commands.test_experiments import commit

Register = Callable[..., RegistrationHandle]
NAMES = {"dvc_curated": "curated", "dvc_model": "students", "dvc_evaluation": "evaluation"}


@pytest.fixture
def project(tmp_path: Path, students: StudentsHandle, curated: DatasetHandle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results in git and DVC, which nobody has told DVC of yet."""
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "conf/base/globals.yml").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".gitignore").write_text("/*/\n!/conf/\n!/.dvc/\n")
    stages = {name: {"cmd": "true", "outs": [name]} for name in NAMES.values()}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for handle in (students, curated):
        handle.folder.mkdir(exist_ok=True)
        handle.save()
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def register(project: Path, store: str, students, evaluated, curated) -> Register:
    evaluation: EvaluationHandle = evaluated()
    evaluation.save()

    def again(scores: EvaluationHandle | None = None, where: str = store) -> RegistrationHandle:
        values = {"output": project / "registration", "tracking": {"tracking_uri": where}, "name": "origin"}
        config = RegistrationConfig.parse(values, where="the test")
        return register_model(None, students, scores or evaluation, curated, config)

    return again


def version(store: str) -> tuple[dict[str, str], str]:
    """Tags and page of version 1, which stays the only one."""
    (found,) = MlflowClient(store).search_model_versions("name='origin'")
    return dict(found.tags), found.description


@pytest.mark.slow
def test_what_becomes_known_later_is_added_and_what_contradicts_is_left(
    project: Path, store: str, register: Register, evaluated, caplog: pytest.LogCaptureFixture
) -> None:
    """A version of `kedro run` had none of DVC's names for ever, and no remote that was added afterwards."""
    first = register()
    tags, _ = version(store)
    assert not tags.keys() & {*NAMES, "dvc_remote", "training_run", "training_commit"}
    run(project, "dvc", "commit", "--force", "--quiet")
    assert register() == first
    tags, page = version(store)
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    assert {tag: tags[tag] for tag in NAMES} == {tag: lock[name]["outs"][0]["md5"] for tag, name in NAMES.items()}
    assert tags["dvc_model"] in page
    assert "training_commit" not in tags  # the lock is in no commit
    commit(project)
    run(project, "dvc", "remote", "add", "-d", "team", "s3://team/photos")
    assert register() == first
    tags, page = version(store)
    assert tags["dvc_remote"] == "s3://team/photos" and tags["dvc_remote"] in page
    assert tags["training_commit"] == run(project, "git", "rev-parse", "HEAD").strip()
    assert tags["training_commit"] != tags["git_commit"]  # of the code that registered it

    run(project, "dvc", "remote", "modify", "team", "url", "s3://elsewhere")
    with caplog.at_level(logging.WARNING):
        register()
    assert version(store)[0] == tags
    assert "has the tag dvc_remote: s3://team/photos. Here it is s3://elsewhere now" in caplog.text
    # Judged anew, by another evaluation, it is still the one that was trained then.
    caplog.clear()
    better = evaluated(student=0.61)
    better.save()
    with caplog.at_level(logging.WARNING):
        register(better)
    same = ("dvc_curated", "dvc_model", "dvc_remote", "training_commit")
    assert all(version(store)[0][tag] == tags[tag] for tag in same) and "s3://elsewhere now" in caplog.text
    # DVC knows the new evaluation when it looks at it; until then the version names none, and no contradiction is told.
    assert "dvc_evaluation" not in version(store)[0] and "dvc_evaluation" not in caplog.text
    run(project, "dvc", "commit", "--force", "--quiet")
    register(better)
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    renewed, page = version(store)
    assert renewed["dvc_evaluation"] == lock["evaluation"]["outs"][0]["md5"] != tags["dvc_evaluation"]
    assert renewed["dvc_evaluation"] in page and tags["dvc_evaluation"] not in page
    # Measured again with the same scores, it is decided; only the evaluation's name is another one.
    (better.folder / "note").touch()
    run(project, "dvc", "commit", "--force", "--quiet")
    register(better)
    assert version(store)[0]["dvc_evaluation"] not in (renewed["dvc_evaluation"], tags["dvc_evaluation"])


def test_the_commit_of_the_training_is_the_runs_where_it_is_known(
    project: Path, register: Register, students: StudentsHandle
) -> None:
    trained = run(project, "git", "rev-parse", "HEAD").strip()
    store = (
        f"sqlite:///{project}/own/mlflow.db"  # in another test's, the run would be taken for the maker of its network
    )
    with tracking.open_run("distillation", tracking_uri=store) as opened:
        opened.log_model_made("small", students.students["small"].weights_sha256, {})
    (project / "more").touch()
    commit(project)
    register(where=store)
    tags, _ = version(store)
    assert (tags["training_run"], tags["training_commit"]) == (opened.run_id, trained)
    assert tags["git_commit"] == run(project, "git", "rev-parse", "HEAD").strip() != trained
