"""Where a run comes from: the commit, the command and the user."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from dinomill.tracking.invocation import Invocation, current

# DVC writes these after every stage of `dvc repro`, what came out of it: no stage reads them.
_WRITTEN_BY_DVC = ("dvc.lock", ".gitignore")


def git_commit() -> str | None:
    """The commit of the working directory, with ``+`` appended when tracked files differ from it; None outside git.

    Within a start of the pipeline it is the one that it began at.
    """
    at_work = current()
    return _asked() if at_work is None else _asked_once(at_work)


@lru_cache(maxsize=1)
def _asked_once(_: Invocation) -> str | None:
    return _asked()


def _asked() -> str | None:
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    others = (f":(top,exclude,glob)**/{name}" for name in _WRITTEN_BY_DVC)
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *others)
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(("git", *arguments), capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def source_tags(stage: str) -> dict[str, str]:
    """The tags that every run of a stage gets; those that begin with ``mlflow.`` fill MLflow's own columns."""
    tags = {
        "stage": stage,
        "mlflow.source.name": Path(sys.argv[0]).name or "dinomill",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment  # as `dvc exp show` lists it
    if commit := git_commit():
        tags |= {"mlflow.source.git.commit": commit.rstrip("+"), "git_commit": commit}
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id need not have a name
        return str(os.getuid())
