"""Finding the project that a command is meant for, and the few facts that commands need without starting Kedro."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError, InputError
from dinomill.layers import Layers

GLOBALS = Path("conf/base/globals.yml")


def enter_project() -> Path:
    """Make the project's root the working directory, from any of its sub-folders, and return it.

    Raises:
        InputError: Outside of a project.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / GLOBALS).is_file() and (folder / "pyproject.toml").is_file():
            os.chdir(folder)
            return folder
    raise InputError(
        f"{here} is not in a dinomill project.",
        found=f"no {GLOBALS} here or in a folder above",
        action="change to the project's folder and run the same command again",
    )


def read_globals(env: str | None = None) -> dict[str, Any]:
    """The globals of an environment, merged and resolved as Kedro gets them.

    Args:
        env: A folder of ``conf``; None: the base with what is local.

    Raises:
        ConfigError: When there is no such environment, or a file is no YAML mapping.
    """
    return Layers(env).globals


def folder(name: str, env: str | None = None) -> Path:
    """One of an environment's ``folders``, relative to the project's root.

    Raises:
        ConfigError: When it is not there.
    """
    folders = read_globals(env).get("folders", {})
    if name not in folders:
        raise ConfigError(f"globals.yml names no folder {name!r}.", action=f"add `folders.{name}` to {GLOBALS}")
    return Path(folders[name])
