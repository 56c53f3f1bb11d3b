"""The dataset of a version: from DVC's cache, from its remote, and said where it is nowhere."""

from __future__ import annotations

import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.errors import InputError, StorageError
from dinomill.handles import DatasetHandle
from dinomill.reproduction.data import bring_dataset, link_sources, settle
from tests.commands.programs import run


@pytest.fixture
def kept(digits_dataset: DatasetHandle, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A project of DVC's with a dataset in its cache and its remote, and what a version's tags say of it."""
    root = tmp_path / "project"
    root.mkdir()
    shutil.copytree(digits_dataset.folder, root / "curated")
    digits_dataset.model_copy(update={"folder": root / "curated"}).save()
    run(root, "dvc", "init", "--no-scm", "--quiet")
    run(root, "dvc", "add", "--quiet", "curated")
    run(root, "dvc", "remote", "add", "--quiet", "-d", "team", str(tmp_path / "remote"))
    run(root, "dvc", "push", "--quiet")
    (out,) = yaml.safe_load((root / "curated.dvc").read_text())["outs"]
    return root, {"dvc_curated": out["md5"], "dataset_sha256": digits_dataset.manifest_sha256}


def test_a_dataset_comes_from_the_cache_and_from_the_remote(kept: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, tags = kept
    shutil.rmtree(root / "curated")
    brought = bring_dataset(root, tags, tmp_path / "one/curated", root / "curated")
    assert brought.images == 400
    shutil.rmtree(root / ".dvc/cache")
    assert bring_dataset(root, tags, tmp_path / "two/curated", root / "curated") == brought
    assert not (root / "curated").exists()


def test_a_dataset_comes_from_the_remote_of_a_project_in_git(kept: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Its configuration does not say that there is no git, which DVC then looked for in vain: nothing came."""
    root, tags = kept
    run(root, "git", "init", "--quiet")
    run(root, "dvc", "init", "--quiet", "--force")
    run(root, "dvc", "remote", "add", "--quiet", "-d", "team", "../remote")
    assert "/remote" in (root / ".dvc/config").read_text() and str(tmp_path) not in (root / ".dvc/config").read_text()
    assert not (root / ".dvc/cache").exists()
    assert bring_dataset(root, tags, tmp_path / "one/curated", root / "none").images == 400


def test_a_dataset_that_is_nowhere_is_said_with_what_would_help(
    kept: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, tags = kept
    for gone in (root / ".dvc/cache", tmp_path / "remote"):
        shutil.rmtree(gone)
    # The project's present result is as good, where it is the same.
    assert bring_dataset(root, tags, tmp_path / "one", root / "curated").images == 400
    shutil.rmtree(root / "curated")
    with pytest.raises(InputError, match="cannot be brought") as raised:
        bring_dataset(root, tags, tmp_path / "two", root / "curated")
    assert "neither in the cache nor in a remote" in str(raised.value) and "dvc push" in str(raised.value)
    with pytest.raises(InputError, match="no name of DVC's"):
        bring_dataset(root, {"dataset_sha256": tags["dataset_sha256"]}, tmp_path / "three", root / "curated")


def test_a_configuration_of_dvc_that_cannot_be_read_is_said(kept: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """A traceback of DVC's parser."""
    root, tags = kept
    (root / ".dvc/config").write_text("['remote \"team\"'\n  url = nowhere\n")
    with pytest.raises(InputError, match="cannot be brought") as raised:
        bring_dataset(root, tags, tmp_path / "one", root / "none")
    assert "config" in str(raised.value.found)


def test_a_disk_without_room_is_called_that(kept: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Copied by way of the system's folder for what is temporary, it was "neither in the cache nor in a remote"."""
    root, tags = kept
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))  # DVC's own database has room, a shard has not
    try:
        with pytest.raises(StorageError, match="File too large") as raised:
            bring_dataset(root, tags, tmp_path / "one/curated", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "one/curated" in str(raised.value) and not list((tmp_path / "one").iterdir())


def test_a_dataset_comes_straight_to_the_disk_that_it_is_meant_for(
    kept: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, tags = kept
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "no room"))
    assert bring_dataset(root, tags, tmp_path / "one/curated", None).images == 400
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["curated"]


def test_a_dataset_that_was_made_elsewhere_names_the_place_where_it_lies(
    digits_dataset: DatasetHandle, tmp_path: Path
) -> None:
    """With `data` set in `conf/local` alone, the handle named files of a folder that is not there."""
    project, place, then = tmp_path / "again", Path("data/curated"), Path("data/mine/curated")
    shutil.copytree(digits_dataset.folder, project / place)
    shards = tuple(then / "shards" / path.name for path in digits_dataset.shards)
    made = digits_dataset.model_copy(update={"folder": then, "manifest": then / "manifest.parquet", "shards": shards})
    made.save(project / place)
    settled = settle(made, project, place)
    assert DatasetHandle.load(project / place) == settled and settled.folder == place
    assert all(path.is_file() for path in (settled.below(project).manifest, *settled.below(project).shards))
    assert settle(settled, project, place) == settled


def test_another_dataset_under_the_name_is_refused(kept: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, tags = kept
    with pytest.raises(InputError, match="another one"):
        bring_dataset(root, tags | {"dataset_sha256": "0" * 64}, tmp_path / "one", root / "nothing")


def test_sources_are_linked_where_they_are_given_relative_to_the_project(tmp_path: Path) -> None:
    root, into = tmp_path / "root", tmp_path / "into"
    (root / "data/labelled").mkdir(parents=True)
    given: list[Any] = [Path("data/labelled"), tmp_path / "root", Path("data/none"), tmp_path / "none"]
    assert link_sources(root, into, given) == [Path("data/none"), tmp_path / "none"]
    assert (into / "data/labelled").resolve() == root / "data/labelled"
