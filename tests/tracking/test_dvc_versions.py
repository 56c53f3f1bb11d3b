"""DVC's own names of a stage's results, with the real DVC."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dinomill.tracking import dvc_remote, dvc_version
from tests.commands.programs import run

FOLDER = "data/curated"


@pytest.fixture
def mill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only stage has run by DVC."""
    root = tmp_path / "mill"
    (root / "conf/base").mkdir(parents=True)
    (root / "conf/base/globals.yml").touch()
    (root / "pyproject.toml").touch()
    command = f"mkdir -p {FOLDER} && echo '{{}}' > {FOLDER}/handle.json && echo images > {FOLDER}/shard"
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"curation": {"cmd": command, "outs": [FOLDER]}}}))
    run(root, "dvc", "init", "--no-scm", "--quiet")
    run(root, "dvc", "repro", "--quiet")
    (root / "sub").mkdir()
    monkeypatch.chdir(root / "sub")
    return root


def test_a_result_has_the_hash_of_dvcs_lock_while_it_is_that_result(mill: Path) -> None:
    lock = yaml.safe_load((mill / "dvc.lock").read_text())
    wanted = lock["stages"]["curation"]["outs"][0]["md5"]
    assert dvc_version(Path(FOLDER)) == dvc_version(mill / FOLDER) == wanted
    assert wanted.endswith(".dir")
    (mill / FOLDER / "handle.json").unlink()  # it may be a link into DVC's cache
    (mill / FOLDER / "handle.json").write_text(json.dumps({"other": 1}))
    assert dvc_version(Path(FOLDER)) is None, "written by `kedro run` since: DVC does not have it"
    assert dvc_version(Path("data/nothing")) is None
    assert dvc_version(Path("/elsewhere")) is None


def test_a_lock_of_an_environment_counts_and_a_broken_one_is_passed_over(mill: Path) -> None:
    (mill / "conf/mine").mkdir()
    wanted = dvc_version(Path(FOLDER))
    (mill / "dvc.lock").rename(mill / "conf/mine/dvc.lock")
    assert dvc_version(Path(FOLDER)) == wanted
    (mill / "dvc.lock").write_text("stages: [")
    assert dvc_version(Path(FOLDER)) == wanted


def test_the_remote_is_named_without_its_secrets(mill: Path) -> None:
    assert dvc_remote() is None
    run(mill, "dvc", "remote", "add", "--default", "team", "http://me:secret@host/prefix")
    assert dvc_remote() == "http://…@host/prefix"


@pytest.mark.parametrize(
    "shape", ["[]", "stages: [a]", "stages: {a: 1}", "stages: {a: {outs: [x]}}", "stages: {a: {outs: 1}}"]
)
def test_a_lock_of_another_shape_is_passed_over(mill: Path, shape: str) -> None:
    """It was a traceback in the middle of `kedro run`."""
    (mill / "conf/mine").mkdir()
    wanted = dvc_version(Path(FOLDER))
    (mill / "dvc.lock").rename(mill / "conf/mine/dvc.lock")
    (mill / "dvc.lock").write_text(shape)
    assert dvc_version(Path(FOLDER)) == wanted
    (mill / "dvc.lock").unlink()
    (mill / "dvc.lock").mkdir()
    assert dvc_version(Path(FOLDER)) == wanted


def test_what_the_cache_does_not_have_hides_no_other_lock(mill: Path) -> None:
    """The next environment's lock, which had the folder, was never asked."""
    (mill / "conf/mine").mkdir()
    wanted = str(dvc_version(Path(FOLDER)))
    text = (mill / "dvc.lock").read_text()
    (mill / "conf/mine/dvc.lock").write_text(text)
    absent = f"{'0' * 32}.dir"
    (mill / "dvc.lock").write_text(text.replace(wanted, absent))
    assert dvc_version(Path(FOLDER)) == wanted
    listed = mill / ".dvc/cache/files/md5/00" / absent[2:]
    listed.parent.mkdir(exist_ok=True)
    for damaged in ("{}", "1", "[1]", '[{"relpath": 1}]', '[{"md5"'):
        listed.write_text(damaged)
        assert dvc_version(Path(FOLDER)) == wanted
