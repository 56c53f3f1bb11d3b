"""The commit that a run is tagged with, in real git repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill import tracking
from tests.commands.programs import run


def commit(root: Path) -> str:
    run(root, "git", "add", "--all")
    run(root, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--no-gpg-sign", "-m", "x")
    return run(root, "git", "rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a folder of a repository, with all that a run of DVC leaves tracked."""
    root = tmp_path / "mill"
    for name in ("dvc.lock", "conf/mine/dvc.lock", "data/.gitignore", "src/code.py", "weights.dvc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("one\n")
    run(tmp_path, "git", "init", "--quiet")
    commit(tmp_path)
    monkeypatch.chdir(root)
    return root


def test_what_dvc_writes_after_each_stage_makes_no_tree_dirty(repository: Path) -> None:
    """From a clean commit, every `make run` but the first was tagged as one that had changes."""
    clean = run(repository, "git", "rev-parse", "HEAD").strip()
    for name in ("dvc.lock", "conf/mine/dvc.lock", "data/.gitignore"):
        (repository / name).write_text("two\n")
        run(repository, "git", "add", name)
    assert tracking.git_commit() == clean


@pytest.mark.parametrize("name", ["src/code.py", "weights.dvc"])
def test_any_other_change_does(repository: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = tracking.git_commit()
    (repository / name).write_text("two\n")
    monkeypatch.chdir(repository / "data")  # wherever in the repository it is asked
    assert tracking.git_commit() == f"{clean}+"


def test_each_start_has_the_commit_that_it_began_at(repository: Path) -> None:
    """A notebook that ran twice tagged its second run with the first one's commit."""
    starts = [tracking.Invocation("notebook", "kedro run", lambda: tracking.Described()) for _ in range(2)]
    first = tracking.git_commit()
    with tracking.invocation(starts[0]):
        assert tracking.git_commit() == first
        (repository / "src/code.py").write_text("two\n")
        second = commit(repository)
        assert tracking.git_commit() == first  # its code was read before
    with tracking.invocation(starts[1]):
        assert tracking.git_commit() == second != first
    (repository / "src/code.py").write_text("three\n")
    assert tracking.git_commit() == f"{second}+"


def test_outside_of_git_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking.git_commit() is None
