"""The environments of a project, and where their results lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dinomill.layers import Layers, env_option, environments, make_run
from dinomill.tracking import resolve_uri

FOLDERS = ("curated", "teacher", "students", "registration", "package", "work", "scan", "duplicates", "evaluation")


@dataclass(frozen=True)
class Place:
    """An environment: its name (None: base with local), folders below the project's root, names and store.

    Args:
        used: Whether anything was ever run in it here, or in a commit that this one follows: environments that nobody
            uses name stores that there may not be.
    """

    env: str | None
    folders: Mapping[str, Path]
    model: str
    store: str
    withdrawn: Path | None
    used: bool

    @property
    def option(self) -> str:
        """The part of a command that names it."""
        return env_option(self.env)

    @property
    def run(self) -> str:
        """The command that makes its results."""
        return make_run(self.env)


def places(root: Path, asked: str | None = None) -> list[Place]:
    """Every environment of a project, the base first.

    Args:
        root: The project's folder, which is the working directory.
        asked: The environment that somebody named: its store is asked although nothing of it lies here.

    Raises:
        ConfigError: When the configuration of one cannot be read.
    """
    found = []
    for env in (None, *environments(root / "conf")):
        values = Layers(env, conf=root / "conf").globals
        folders = values.get("folders") or {}
        store = os.environ.get("MLFLOW_TRACKING_URI") or str(values.get("tracking_uri") or "")
        listed = values.get("withdrawn")
        named = {name: Path(folders[name]) for name in FOLDERS if name in folders}
        lock = root / "conf" / env / "dvc.lock" if env else None
        found.append(
            Place(
                env,
                named,
                str(values.get("model", "")),
                resolve_uri(store, root) if store else "",
                Path(listed) if listed else None,
                used=lock is None
                or env == asked
                or lock.exists()
                or any((root / path).exists() for path in named.values()),
            )
        )
    return found


def everywhere(found: list[Place], folder: str) -> dict[str, Place]:
    """Every place of a folder, each with the first environment that has it."""
    first: dict[str, Place] = {}
    for place in found:
        if folder in place.folders:
            first.setdefault(place.folders[folder].as_posix(), place)
    return first
