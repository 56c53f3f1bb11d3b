"""The code of a version, and its settings, in a folder of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dinomill.errors import InputError, MachineError
from dinomill.layers import Layers
from dinomill.reproduction.recorded import Recorded
from dinomill.storage.atomic import write_text

RECORDED = Path("conf/local/parameters_recorded.yml")


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


def lay_settings(into: Path, env: str | None, recorded: Recorded) -> dict[str, tuple[Any, Any]]:
    """Write down settings that the runs had, and the commit does not have: from ``conf/local``, or never committed.

    Returns:
        Dotted names; what the commit says (None: nothing), and what the run had.
    """
    differing: dict[str, tuple[Any, Any]] = {}
    written: dict[str, Any] = {}
    parameters = Layers(env, conf=into / "conf").parameters
    for stage in recorded.stages:
        if (run := recorded.run_of(stage)) is None:
            continue
        now = parameters.get(stage, {})
        for name, value in run.differing(stage, now).items():
            differing[f"{stage}.{name}"] = (_find(now, name), value)
            _set(written, f"{stage}.{name}", value)
    if written:
        (into / RECORDED).parent.mkdir(parents=True, exist_ok=True)
        head = "# Settings of the run that trained the version, which its commit does not have.\n\n"
        write_text(into / RECORDED, head + yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    return differing


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
