"""Results that travel: a real S3 server as DVC's remote, a fresh clone, a worktree, an older version, a pool of S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml

from tests.commands.programs import run
from tests.commands.test_experiments import cloned, commit, read
from tests.seaweedfs import ACCESS_KEY, SECRET, s3_server

__all__ = ["cloned"]  # a fixture that is shared

SAMPLE = "conf/base/sample/parameters.yml"
STAGES = "sample"
BUCKET = "team"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("weed")) as port:
        address = f"http://127.0.0.1:{port}"
        client(address).create_bucket(Bucket=BUCKET)
        yield address


@pytest.fixture
def shared(cloned: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a remote on the server; credentials by the standard chain."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    run(cloned, "dvc", "remote", "add", "-d", "team", f"s3://{BUCKET}/{tmp_path.name}")
    run(cloned, "dvc", "remote", "modify", "team", "endpointurl", server)
    return cloned


def client(server: str) -> boto3.client:
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=server, **keys)


def files(project: Path) -> dict[str, bytes]:
    """The laid-out sample."""
    folder = project / "data/01_raw/sample"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def clone(project: Path, name: str) -> Path:
    """What a colleague has after `git clone`; the code is where the tests have it."""
    other = project.parent / name
    run(project, "git", "clone", "--quiet", str(project), str(other))
    return other


def test_a_fresh_clone_pulls_and_has_nothing_to_run(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(shared, "dvc", "repro", STAGES)
    run(shared, "dvc", "push")
    commit(shared)
    other = clone(shared, "colleague")
    run(other, "dvc", "pull", STAGES)
    assert files(other) == files(shared)
    shown = run(other, "dvc", "repro", STAGES)
    assert "Stage 'sample' didn't change, skipping" in shown and "Running stage 'sample'" not in shown
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = run(clone(shared, "stranger"), "dvc", "pull", STAGES, code=1)
    assert "403" in refused or "Forbidden" in refused or "SignatureDoesNotMatch" in refused


@pytest.mark.slow
def test_an_older_version_comes_back_with_its_data_and_runs_nothing(shared: Path) -> None:
    run(shared, "dvc", "repro", STAGES)
    commit(shared)
    run(shared, "git", "tag", "first")
    before = files(shared)
    values = read(shared / SAMPLE)
    values["sample"]["originals"] = 50
    (shared / SAMPLE).write_text(yaml.safe_dump(values), encoding="utf-8")
    run(shared, "dvc", "repro", STAGES)
    commit(shared)
    assert files(shared) != before
    run(shared, "git", "checkout", "--quiet", "first")
    run(shared, "dvc", "checkout", STAGES)
    assert files(shared) == before
    assert "Running stage 'sample'" not in run(shared, "dvc", "repro", STAGES)
    # The run cache knows what a parameter made before, whatever git has: nothing is computed twice.
    values["sample"]["originals"] = 50
    (shared / SAMPLE).write_text(yaml.safe_dump(values), encoding="utf-8")
    assert "Stage 'sample' is cached - skipping run" in run(shared, "dvc", "repro", STAGES)


@pytest.mark.slow
def test_a_worktree_is_a_project_of_its_own_on_the_same_cache(shared: Path) -> None:
    run(shared, "dvc", "repro", STAGES)
    commit(shared)
    tree = shared.parent / "tree"
    run(shared, "git", "worktree", "add", "--quiet", "-b", "trial", str(tree))
    run(tree, "dvc", "cache", "dir", "--local", str(shared / ".dvc/cache"))
    run(tree, "dvc", "checkout", STAGES)
    assert files(tree) == files(shared)
    assert "Running stage 'sample'" not in run(tree, "dvc", "repro", STAGES)
    run(tree, "dvc", "exp", "run", "-S", f"{SAMPLE}:sample.originals=50", STAGES)
    assert len(files(tree)) == len(files(shared)) + 10
    assert read(shared / SAMPLE) != read(tree / SAMPLE)


def test_a_pool_of_s3_is_imported_once_and_brought_up_to_date(shared: Path, server: str) -> None:
    for name in ("a", "b"):
        client(server).put_object(Bucket=BUCKET, Key=f"pool/{name}.txt", Body=name.encode())
    run(shared, "dvc", "remote", "add", "pools", f"s3://{BUCKET}/pool")
    run(shared, "dvc", "remote", "modify", "pools", "endpointurl", server)
    (shared / "data/00_pool").mkdir()
    run(shared, "dvc", "import-url", "remote://pools", "data/00_pool/photos")
    assert sorted(path.name for path in (shared / "data/00_pool/photos").iterdir()) == ["a.txt", "b.txt"]
    assert "photos.dvc" in run(shared, "git", "status", "--short", "--untracked-files=all")
    client(server).put_object(Bucket=BUCKET, Key="pool/c.txt", Body=b"c")
    run(shared, "dvc", "update", "data/00_pool/photos.dvc")
    assert len(list((shared / "data/00_pool/photos").iterdir())) == 3


@pytest.mark.slow
def test_experiments_are_shown_and_compared(shared: Path) -> None:
    run(shared, "dvc", "repro", STAGES)
    commit(shared)
    run(shared, "dvc", "exp", "run", "--name", "more", "-S", f"{SAMPLE}:sample.originals=50", STAGES)
    listed = run(shared, "dvc", "exp", "show", "--csv")
    assert any("more" in line.split(",") for line in listed.splitlines()) and "sample.originals" in listed
    shown = run(shared, "dvc", "exp", "diff", "HEAD", "more", "--param-deps")
    assert "sample.originals" in shown and "40" in shown and "50" in shown
