"""The dataset of a version, by DVC's name of it, from the project's cache or its remote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from dinomill.errors import InputError
from dinomill.handles import HANDLE_NAME, DatasetHandle
from dinomill.storage.hashing import hash_file
from dinomill.tracking.dvc_versions import dvc_config

_CONFIGS = ("config", "config.local")


def bring_dataset(root: Path, tags: Mapping[str, str], folder: Path, here: Path) -> DatasetHandle:
    """Put a version's dataset into its place.

    Args:
        root: The project that has the cache, and knows the remotes.
        tags: The version's: ``dvc_curated``, ``dataset_sha256``.
        folder: Where the dataset shall lie; absolute.
        here: The dataset of the project at work: taken where it is the same.

    Raises:
        InputError: When it is nowhere, or what DVC has under its name is not what was trained on.
    """
    wanted = tags["dataset_sha256"]
    name = tags.get("dvc_curated")
    problem = "the version has no name of DVC's for it: it was registered before DVC had looked (`kedro run` alone)"
    if name is not None:
        problem = _pull(root, name, folder) or ""
    if name is None or problem:
        if not _is(here, wanted):
            raise InputError(
                "The dataset of this version cannot be brought.",
                found=f"manifest {wanted[:12]}…; {problem}",
                expected="the dataset in DVC's cache, in its remote, or as the project's present result",
                action="name the remote that has it (`dvc remote add -d NAME s3://…`, credentials by the usual chain), "
                "or push it from where it was made: `dvc push`",
            )
        shutil.copytree(here, folder)
    handle = DatasetHandle.load(folder)
    if handle.manifest_sha256 != wanted or not _is(folder, wanted):
        raise InputError(
            "What DVC has under the name of the version's dataset is another one.",
            found=f"manifest {handle.manifest_sha256[:12]}…",
            expected=f"manifest {wanted[:12]}…",
            action="the cache or the remote is damaged, or was written by hand: `dvc pull` from another remote",
        )
    return handle


def link_sources(root: Path, into: Path, sources: list[Path]) -> list[Path]:
    """Let images of the user that the stages read be found in the new folder: those given relative to the project.

    Returns:
        Those that are nowhere.
    """
    missing = []
    for path in sources:
        if path.is_absolute() or (into / path).exists():
            if not (into / path).exists():
                missing.append(path)
            continue
        if not (root / path).exists():
            missing.append(path)
            continue
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).symlink_to((root / path).resolve())
    return missing


def _pull(root: Path, name: str, folder: Path) -> str | None:
    """Have DVC bring a folder by its hash; why not, where it could not."""
    # In a repository of its own: in the project's, the folder belongs to a stage whose lock says something else.
    with tempfile.TemporaryDirectory() as room:
        scratch = Path(room)
        _dvc(scratch, "init", "--no-scm", "--quiet")
        for file in _CONFIGS:
            if (root / ".dvc" / file).is_file():
                shutil.copyfile(root / ".dvc" / file, scratch / ".dvc" / file)
        _dvc(scratch, "config", "--local", "core.no_scm", "true")  # the project's own say that it lies in git
        for remote, url in _remotes_by_path(root):
            _dvc(scratch, "remote", "modify", "--local", remote, "url", url)
        cache = subprocess.run(
            (sys.executable, "-m", "dvc", "cache", "dir"), cwd=root, capture_output=True, text=True, check=False
        ).stdout.strip()
        if cache:
            _dvc(scratch, "cache", "dir", "--local", str((root / cache).resolve()))
        out = {"md5": name, "hash": "md5", "path": "brought"}
        (scratch / "brought.dvc").write_text(yaml.safe_dump({"outs": [out]}), encoding="utf-8")
        said = _dvc(scratch, "checkout", "brought.dvc")
        if said is not None:
            said = _dvc(scratch, "pull", "brought.dvc")
        if said is not None or not (scratch / "brought" / HANDLE_NAME).is_file():
            return f"DVC's {name} is neither in the cache nor in a remote ({said or 'nothing came'})"
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(scratch / "brought", folder)
    return None


def _remotes_by_path(root: Path) -> list[tuple[str, str]]:
    """Remotes that are folders, with their whole path: DVC keeps it relative to the project's own configuration."""
    found = dvc_config(root).get("remote", {})
    urls = {str(name): str(one.get("url", "")) for name, one in found.items()}
    return [(name, url) for name, url in urls.items() if "://" not in url and Path(url).is_absolute()]


def _dvc(where: Path, *arguments: str) -> str | None:
    """Run DVC; what it said, where it failed."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        (sys.executable, "-m", "dvc", *arguments),
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else " ".join((done.stderr or done.stdout).split())[:300]


def _is(folder: Path, manifest_sha256: str) -> bool:
    path = folder / "manifest.parquet"
    return path.is_file() and hash_file(path) == manifest_sha256
