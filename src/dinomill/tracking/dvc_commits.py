"""Which commit made a result, by DVC's name of it: the first whose dvc.lock has it, and what else that lock says.

dvc.lock, conf/<name>/dvc.lock      of a commit: outs with their hashes, and the settings that a stage was run with
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dinomill.handles import HANDLE_NAME
from dinomill.tracking.dvc_history import Earlier, History
from dinomill.tracking.dvc_versions import made_by

Files = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Locked:
    """The lock of the commit that first had a result.

    Args:
        commit: Its full name.
        lock: The lock's path in it, below the project.
        version: DVC's hash of the result.
        text: What the lock says.
    """

    commit: str
    lock: str
    version: str
    text: str

    @cached_property
    def stages(self) -> Mapping[str, Mapping[str, Any]]:
        """What it says, stage by stage, read as DVC does: numbers are those of YAML 1.2."""
        from dvc.utils.serialize import parse_yaml

        found: Mapping[str, Mapping[str, Any]] = parse_yaml(self.text, self.lock)["stages"]
        return found

    @property
    def environment(self) -> str | None:
        """The environment whose lock it is; None: the base."""
        name = PurePosixPath(self.lock).parent.relative_to("conf" if "/" in self.lock else ".").as_posix()
        return None if name == "." else name

    def params(self, stage: str) -> Files:
        """The settings of a stage by the file that said them, as they stand there: references are not resolved."""
        found = self.stages.get(stage, {}).get("params") or {}
        return {file: values for file, values in found.items() if isinstance(values, Mapping)}

    def dependency(self, stage: str, folder: str) -> str | None:
        """DVC's hash of a folder that a stage read."""
        for one in self.stages.get(stage, {}).get("deps") or ():
            if one.get("path") == folder:
                return str(one["md5"]) if one.get("md5") else None
        return None


def lock_of(
    root: Path,
    folders: Iterable[str],
    version: str | None,
    is_it: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> Locked | None:
    """The lock of the first commit that has a result.

    Args:
        root: The project's folder.
        folders: Where the result may have lain, below it.
        version: DVC's hash of it, where that is known.
        is_it: Tells it by its handle, where no lock has that: only results whose handle is in DVC's cache are found so.

    Returns:
        None where no commit has it, or the project is not in git.
    """
    folders = list(folders)
    history = History(root, folders)
    committed = [one for folder in folders for one in history.all_of(folder) if one.commits]
    for earlier in sorted(committed, key=lambda one: one.version != version):
        if earlier.version == version or _is(history, earlier, is_it):
            return _read(root, earlier)
    return None


def _is(history: History, earlier: Earlier, is_it: Callable[[Mapping[str, Any]], bool]) -> bool:
    handle = history.read(earlier.version, HANDLE_NAME)
    return handle is not None and is_it(handle)


def _read(root: Path, earlier: Earlier) -> Locked | None:
    """The lock in the first commit; one that a branch leads to comes before those of DVC's experiments."""
    led_to = set(_git(root, "rev-list", "HEAD", "--branches", "--tags", "--remotes").split())
    commits = [commit for commit, _ in reversed(earlier.commits)]
    for commit in sorted(commits, key=lambda one: one not in led_to):
        for lock in _git(root, "ls-tree", "-r", "-z", "--name-only", commit, "--", "dvc.lock", "conf").split("\0"):
            if PurePosixPath(lock).name == "dvc.lock":
                text = _git(root, "show", f"{commit}:./{lock}")
                if any(version == earlier.version for _, version in made_by(text)):
                    return Locked(commit, lock, earlier.version, text)
    return None


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(("git", *arguments), cwd=root, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
