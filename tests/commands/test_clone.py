"""A colleague's clone: the whole mill in small, pushed to a real S3 server; of MLflow there is what is made there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.pipeline_registry import STAGES
from dinomill.storage.hashing import hash_file
from tests.commands.programs import run
from tests.commands.test_dvc_remote import client
from tests.commands.test_experiments import commit
from tests.conftest import PROJECT
from tests.seaweedfs import ACCESS_KEY, SECRET, s3_server
from tests.test_the_mill import prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BUCKET = "mill"
CHAMPION = "models:/dinomill-backbone@champion"
TEACHER, STUDENT = "data/06_models/teacher/model.safetensors", "data/06_models/students/small/model.safetensors"
# An environment that trains on the base's dataset and registers its own teacher; more is not done in it.
PHOTOS: dict[str, Any] = {
    "globals": {"data": "data/photos", "dataset": "data", "work": "data/work/photos", "model": "dinomill-photos"},
    "pretraining/parameters": {"pretraining": {"steps": 8}},
    "distillation/parameters": {"distillation": {"steps": 2}},
    "registration/parameters": {"registration": {"network": "teacher"}},
}
LOAD = "import dinomill; print('width', dinomill.load('models:/dinomill-backbone@champion').config.embed_dim)"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished project, committed and pushed: a student of the base (tag `first`), then a teacher of `photos`."""
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("weed")) as port:
        for name, value in {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        address = f"http://127.0.0.1:{port}"
        client(address).create_bucket(Bucket=BUCKET)
        root = finished(tmp_path_factory.mktemp("team") / "project")
        run(root, "dvc", "remote", "add", "-d", "team", f"s3://{BUCKET}/results")
        run(root, "dvc", "remote", "modify", "team", "endpointurl", address)
        run(root, "dvc", "push")
        commit(root)
        run(root, "git", "tag", "first")
        for name, values in PHOTOS.items():
            path = root / "conf/photos" / f"{name}.yml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(values), encoding="utf-8")
        run(root, "dinomill", "dvc", "sync", "--env", "photos")
        run(root, "dvc", "repro", "conf/photos/dvc.yaml:registration")
        run(root, "dvc", "push")
        commit(root)
        yield root


def finished(root: Path) -> Path:
    """The project with all of its results; its code is its own, as a clone has to hold it."""
    ignore = shutil.ignore_patterns("__pycache__", "local")
    for name in ("conf", "src/dinomill", "pipelines"):
        shutil.copytree(PROJECT / name, root / name, symlinks=True, ignore=ignore)
    (root / "conf/local").mkdir()
    for name in ("pyproject.toml", ".dvcignore"):
        shutil.copy(PROJECT / name, root)
    (root / "data").mkdir()
    (root / ".gitignore").write_text((PROJECT / ".gitignore").read_text(encoding="utf-8") + "!data/00_shipped\n")
    prepare(root)
    path = root / "conf/base/packaging/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["packaging"]["backend"] |= {"candidates": ["eager"], "precisions": ["float32"], "clients": [1]}
    values["packaging"]["backend"]["seconds"] = 0.1
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    run(root, "git", "init", "--quiet")
    run(root, "dvc", "init", "--quiet")
    run(root, "dinomill", "dvc", "sync", "--quiet")
    commit(root)
    run(root, "dvc", "repro")
    return root


@pytest.fixture
def clone(team: Path, tmp_path: Path) -> Path:
    """What a colleague has after `git clone`."""
    run(tmp_path, "git", "clone", "--quiet", str(team), "clone")
    return tmp_path / "clone"


def python(project: Path, code: str, expected: int = 0) -> str:
    return run(project, "python", "-c", code, code=expected)


def tags(project: Path, name: str) -> dict[str, str]:
    """Those of version 1 in the project's own registry."""
    uri = f"sqlite:///{project}/data/mlflow/mlflow.db"
    code = f"import json; from mlflow import MlflowClient as C; print('tags', json.dumps(C({uri!r}).get_model_version"
    line = next(one for one in python(project, f"{code}({name!r}, '1').tags))").splitlines() if one.startswith("tags "))
    found: dict[str, str] = json.loads(line.removeprefix("tags "))
    return found


def locked(project: Path, lock: str, stage: str, folder: str) -> str:
    stages = yaml.safe_load((project / lock).read_text(encoding="utf-8"))["stages"]
    return next(str(out["md5"]) for out in stages[stage]["outs"] if out["path"] == folder)


def test_all_answers_in_a_clone_before_and_after_registration_looked(clone: Path) -> None:
    run(clone, "git", "checkout", "--quiet", "first")
    assert "dvc pull" in run(clone, "dinomill", "lineage", CHAMPION, code=1)
    run(clone, "dvc", "pull")
    before = run(clone, "dinomill", "lineage", CHAMPION)
    assert "dataset" in before and "what brings it: kedro run --pipelines registration" in before
    assert before.count("what brings it") == 1
    assert "kedro run --pipelines registration" in python(clone, LOAD, expected=1)

    shown = run(clone, "dvc", "repro")
    assert [one for one in STAGES if f"Running stage '{one}'" in shown] == ["registration"]
    assert not run(clone, "git", "status", "--porcelain", "--untracked-files=no")
    assert "width" in python(clone, LOAD)
    after = run(clone, "dinomill", "lineage", CHAMPION)
    assert "dataset" in after and "champion" in after and "not at hand" not in after

    # The registry says the truth: who trained it is not this commit's run, but it is known whose code did.
    said = tags(clone, "dinomill-backbone")
    assert "training_run" not in said
    assert said["training_commit"] == run(clone, "git", "rev-list", "-1", "first", "--", "dvc.lock").strip()
    assert said["dvc_remote"] == f"s3://{BUCKET}/results"
    assert said["dvc_model"] == locked(clone, "dvc.lock", "distillation", "data/06_models/students")


def test_an_older_version_trains_to_the_same_weights(team: Path, clone: Path) -> None:
    path = clone / "conf/base/pretraining/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["pretraining"]["steps"] = 4
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    commit(clone)
    run(clone, "git", "checkout", "--quiet", "first")
    run(clone, "dvc", "fetch", "pretraining", "distillation", "curation", "sample")
    run(clone, "dvc", "checkout", "pretraining", "distillation", "curation", "sample")
    run(clone, "dvc", "repro", "configuration")  # what it writes is in no cache
    for stage, weights in (("pretraining", TEACHER), ("distillation", STUDENT)):
        before = hash_file(clone / weights)
        assert before == hash_file(team / weights)
        (clone / weights).unlink()
        assert f"Running stage '{stage}'" in run(clone, "dvc", "repro", "--single-item", "--force", stage)
        assert hash_file(clone / weights) == before


def test_a_student_and_a_teacher_are_made_again_by_their_locks_with_data_from_the_remote(clone: Path) -> None:
    """`dinomill reproduce` refused: "does not know the run that trained …, training_run not recorded"."""
    run(clone, "dvc", "pull", "--allow-missing")  # packaging and report of `photos` were never made
    run(clone, "kedro", "run", "--pipelines", "registration")
    run(clone, "kedro", "run", "--env", "photos", "--pipelines", "registration")
    trained = tags(clone, "dinomill-photos")["training_commit"]
    assert trained == run(clone, "git", "rev-list", "-1", "HEAD", "--", "conf/photos/dvc.lock").strip()
    for gone in (".dvc/cache", "data/05_model_input"):  # else it comes from there
        shutil.rmtree(clone / gone)

    again = clone.parent / "student"
    shown = run(clone, "dinomill", "reproduce", "champion", "--into", str(again))
    assert "dvc.lock of commit" in shown and "does not know the run" in shown
    assert shown.count("the same weights, bit for bit") == 2  # and its teacher
    assert hash_file(again / STUDENT) == hash_file(clone / STUDENT)

    again = clone.parent / "teacher"
    shown = run(clone, "dinomill", "reproduce", "models:/dinomill-photos/1", "--env", "photos", "--into", str(again))
    assert "conf/photos/dvc.lock of commit" in shown
    assert shown.count("the same weights, bit for bit") == 1
    assert hash_file(again / "data/photos/06_models/teacher/model.safetensors") != hash_file(clone / TEACHER)
    assert [path.name for path in (again / "data/photos/06_models").iterdir()] == ["teacher"]


def test_where_the_run_is_known_it_is_asked_first(team: Path, tmp_path: Path) -> None:
    shown = run(team, "dinomill", "reproduce", "1", "--env", "photos", "--into", str(tmp_path / "again"))
    assert "known by" in shown and "the run " in shown and "dvc.lock of" not in shown
    assert shown.count("the same weights, bit for bit") == 1
