"""A file or folder by DVC's name of it, from a project's cache or its remotes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from dinomill.storage.atomic import refused, storage_errors
from dinomill.tracking.dvc_versions import dvc_config

_CONFIGS = ("config", "config.local")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NUMBER = re.compile(r"\[Errno (\d+)\]([^\n]*)")
_DATABASE = "database or disk is full"  # SQLite's words
_ERROR = re.compile(r"ERROR: (.*?)(?:\nTraceback|\Z)", re.DOTALL)


def pull(root: Path, name: str, place: Path) -> str | None:
    """Have DVC bring a file or a folder by its hash.

    Args:
        root: The project that has the cache, and knows the remotes.
        name: DVC's hash of it.
        place: Where it shall lie; nothing lies there.

    Returns:
        Why DVC could not; None where it did.

    Raises:
        StorageError: When there is no room for it, here or in the cache.
    """
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        # On the disk that it is meant for, which has room for it, and where a link is one. In a repository of its own:
        # in the project's, the folder belongs to a stage whose lock says something else.
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".bringing-") as room:
            scratch = Path(room)
            said = _prepared(root, scratch, place, name)
            if said is None and (said := _dvc(scratch, place, "checkout", "--verbose", "brought.dvc")) is not None:
                said = _dvc(scratch, place, "pull", "--verbose", "brought.dvc")
            if said is None and not (scratch / "brought").exists():
                said = "nothing came"
            if said is None:
                (scratch / "brought").rename(place)
                return None
    return f"DVC's {name} is neither in the cache nor in a remote ({said})"


def _prepared(root: Path, scratch: Path, place: Path, name: str) -> str | None:
    """Make a repository with the project's cache and remotes, in which the file is the only one; why not, if not."""
    if (said := _dvc(scratch, place, "init", "--no-scm", "--verbose")) is not None:
        return said
    for file in _CONFIGS:
        if (root / ".dvc" / file).is_file():
            shutil.copyfile(root / ".dvc" / file, scratch / ".dvc" / file)
    _dvc(scratch, place, "config", "--local", "core.no_scm", "true")  # the project's own say that it lies in git
    for remote, url in _remotes_by_path(root):
        _dvc(scratch, place, "remote", "modify", "--local", remote, "url", url)
    cache = subprocess.run(
        (sys.executable, "-m", "dvc", "cache", "dir"), cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    if cache:
        _dvc(scratch, place, "cache", "dir", "--local", str((root / cache).resolve()))
    out = {"md5": name, "hash": "md5", "path": "brought"}
    (scratch / "brought.dvc").write_text(yaml.safe_dump({"outs": [out]}), encoding="utf-8")
    return None


def _remotes_by_path(root: Path) -> list[tuple[str, str]]:
    """Remotes that are folders, with their whole path: DVC keeps it relative to the project's own configuration."""
    found = dvc_config(root).get("remote", {})
    urls = {str(name): str(one.get("url", "")) for name, one in found.items()}
    return [(name, url) for name, url in urls.items() if "://" not in url and Path(url).is_absolute()]


def _dvc(where: Path, place: Path, *arguments: str) -> str | None:
    """Run DVC; what it said, where it failed.

    Raises:
        StorageError: When there was no room for what it brought.
    """
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        (sys.executable, "-m", "dvc", *arguments),
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    # "Is your cache up to date?", it asks of a full disk, and names that among what `--verbose` shows.
    if _DATABASE in done.stdout + done.stderr:
        raise refused(place, errno.ENOSPC)
    for number, rest in _NUMBER.findall(done.stdout + done.stderr):
        if int(number) in _FULL:
            path = Path((re.findall(r"'([^']+)'", rest) or [str(place)])[-1])
            raise refused(place if path.is_relative_to(where) else path.parent, int(number))
    text = done.stderr or done.stdout
    return " ".join((found[1] if (found := _ERROR.search(text)) else text).split())[:300]
