"""The code of a version, and its settings, in a folder of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dinomill.errors import InputError, MachineError
from dinomill.layers import Layers
from dinomill.reproduction.locked import differing
from dinomill.reproduction.recorded import Recorded
from dinomill.storage.atomic import write_text

RECORDED = Path("conf/local/parameters_recorded.yml")
_GLOBALS = Path("conf/local/globals.yml")
_PLACES = ("output", "work")
# Where all results lie, and what is unfinished; and the folders that a training writes.
_INSIDE = {"data": "data", "work": "data/work"}
_WRITTEN = ("curated", "teacher", "students", "work")
_HEAD = "# Settings of the run that trained the version, which its commit does not have.\n\n"


def check_folder(into: Path) -> None:
    """Refuse to write where something lies.

    Raises:
        InputError: When the folder is there, and not empty.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InputError(
            f"{into} is there already.",
            expected="a folder that is not there yet, or is empty",
            action="name another one with --into, or remove it",
        )


def check_out(root: Path, commit: str, into: Path) -> Path:
    """Bring the code of a commit into a new folder, without touching the one at work.

    Args:
        root: The project; its repository, and what it knows of remotes, is asked.
        commit: Its full name.
        into: The folder.

    Returns:
        The project's folder in it.

    Raises:
        InputError: When the commit is nowhere.
        MachineError: When git cannot be run, or the folder cannot be written.
    """
    if not _has(root, commit):
        _git(root, "fetch", "--quiet", "--all", check=False)
    if not _has(root, commit):
        remotes = _git(root, "remote", check=False).split()
        raise InputError(
            f"The commit {commit} is not in this repository.",
            found=f"neither here nor in {', '.join(remotes)}"
            if remotes
            else "not here, and the repository has no remote",
            action="fetch it from where the version was trained: `git fetch ADDRESS`; a commit that was amended or "
            "rebased away and never pushed is lost",
        )
    above = Path(_git(root, "rev-parse", "--show-toplevel").strip())
    _git(root, "clone", "--quiet", "--no-checkout", str(above), str(into))
    _git(into, "fetch", "--quiet", str(above), commit, check=False)  # one that no branch leads to was not cloned
    _git(into, "checkout", "--quiet", "--detach", commit)
    # An installed dinomill finds `dinomill.pipelines` in its own project; within this folder it has to be this one's.
    project = into / root.resolve().relative_to(above.resolve())
    link = project / "src" / "dinomill" / "pipelines"
    if not link.exists():
        link.symlink_to(Path("..", "..", "pipelines"))
    return project


def bring_environment(root: Path, into: Path, env: str | None) -> bool:
    """An environment that was never committed, as it is here now: the run's own settings are laid over it.

    Args:
        root: The project at work.
        into: The one in the new folder.
        env: The environment's name.

    Returns:
        Whether it was brought; False where the commit has it.

    Raises:
        InputError: When it is neither in the commit nor here.
    """
    if env is None or (into / "conf" / env).is_dir():
        return False
    here = root / "conf" / env
    if not here.is_dir():
        raise InputError(
            f"conf/{env}, in which the version was trained, is not in its commit, and not here either.",
            found=f"no folder {into / 'conf' / env}, no folder {here}",
            action=f"bring conf/{env} from where the version was trained, and commit it there: git add conf/{env}",
        )
    shutil.copytree(here, into / "conf" / env)
    return True


def lay_settings(into: Path, env: str | None, recorded: Recorded) -> dict[str, tuple[Any, Any]]:
    """Write down settings that the runs had, and the commit does not have: from ``conf/local``, or never committed.

    Returns:
        Dotted names; what the commit says (None: nothing), and what the run had.
    """
    found: dict[str, tuple[Any, Any]] = {}
    globals_: dict[str, tuple[Any, Any]] = {}
    parameters = Layers(env, conf=into / "conf").parameters
    for stage in recorded.stages:
        if (run := recorded.run_of(stage)) is not None:
            now = parameters.get(stage, {})
            found |= {f"{stage}.{key}": (_find(now, key), value) for key, value in run.differing(stage, now).items()}
        elif files := recorded.locked(stage):
            said = differing(files, into)
            found |= said["parameters"]
            globals_ |= said["globals"]
    # Where a stage writes is this folder's: a run may have had its results elsewhere, where they still lie.
    found = {key: one for key, one in found.items() if key.split(".", 1)[-1] not in _PLACES}
    for file, values in ((RECORDED, found), (_GLOBALS, globals_)):
        if values:
            written: dict[str, Any] = {}
            for name, (_, value) in values.items():
                _set(written, name, value)
            (into / file).parent.mkdir(parents=True, exist_ok=True)
            write_text(into / file, _HEAD + yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    return {f"globals: {key}": one for key, one in globals_.items()} | found


def stay_inside(into: Path, env: str | None) -> list[str]:
    """Let the stages write below the new folder where the commit names places outside of it: those are the project's.

    Returns:
        The keys of globals.yml that were set.

    Raises:
        InputError: When one of their folders is named by itself, outside.
    """

    def outside(place: Any) -> bool:
        return not (into / str(place)).resolve().is_relative_to(into.resolve())

    values = Layers(env, conf=into / "conf").globals
    moved = [name for name in _INSIDE if outside(values.get(name, _INSIDE[name]))]
    for name in moved:
        lay_setting(into, name, _INSIDE[name], file=_GLOBALS)
    folders = Layers(env, conf=into / "conf").globals.get("folders", {})
    for name in (name for name in _WRITTEN if outside(folders.get(name, ""))):
        raise InputError(
            f"The version's settings write outside of the new folder, over what lies at {folders[name]}.",
            found=f"folders.{name}: {folders[name]}, in the commit's globals.yml",
            expected="a path below `data`",
            action=f"set it in {into / _GLOBALS}, and run the stages there: kedro run --pipelines …",
        )
    return moved


def lay_setting(into: Path, name: str, value: Any, file: Path = RECORDED) -> None:
    """Write down one setting more, over what was recorded.

    Args:
        into: The new folder's project.
        name: Dotted: the stage first.
        value: What it shall be there.
        file: Of ``conf/local``.
    """
    file = into / file
    known = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    _set(known, name, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, _HEAD + yaml.safe_dump(known, sort_keys=False, allow_unicode=True))


def changed_code(project: Path, stages: Sequence[str], env: str | None) -> list[str]:
    """The code of a checkout that is not what its dvc.lock names: it was committed with other code than made it."""
    lock = Path("conf") / env / "dvc.yaml" if env else Path("dvc.yaml")
    command = [sys.executable, "-m", "dvc", "status", "--json", *(f"{lock.as_posix()}:{stage}" for stage in stages)]
    done = subprocess.run(
        command, cwd=project, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True, check=False
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:  # no project of DVC's, or one that it cannot read: then it says nothing
        return []
    changes = [change for stage in said.values() for change in stage if isinstance(change, Mapping)]
    names = {name for change in changes for name in change.get("changed deps", {})}
    return sorted(name for name in names if name.startswith(("src/", "pipelines/")))


def _find(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    *above, last = name.split(".")
    for part in above:
        values = values.setdefault(part, {})
    values[last] = value


def _has(root: Path, commit: str) -> bool:
    done = subprocess.run(("git", "cat-file", "-e", f"{commit}^{{commit}}"), cwd=root, capture_output=True, check=False)
    return done.returncode == 0


def _git(where: Path, *arguments: str, check: bool = True) -> str:
    git = shutil.which("git")
    if git is None:
        raise MachineError("There is no git on this machine.", action="install it: it has the version's code")
    done = subprocess.run((git, *arguments), cwd=where, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise MachineError(f"git {arguments[0]} failed in {where}.", found=" ".join(done.stderr.split())[-400:])
    return done.stdout
