"""Finding the project that a command is meant for, and the few facts that commands need without starting Kedro."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from dinomill.errors import ConfigError, InputError

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


def read_globals(env: str = "local") -> dict[str, Any]:
    """``conf/base/globals.yml`` with another environment's laid over it, top-level key by key, as Kedro does.

    Args:
        env: The environment: a folder of ``conf``.

    Raises:
        ConfigError: When one of them is no YAML mapping.
    """
    values: dict[str, Any] = {}
    for path in (GLOBALS, Path("conf", env, "globals.yml")):
        if path.is_file():
            try:
                read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except yaml.YAMLError as error:
                raise ConfigError(f"{path} is not valid YAML.", found=" ".join(str(error).split())) from None
            if not isinstance(read, dict):
                raise ConfigError(f"{path} is not a mapping.", found=type(read).__name__, expected="`key: value` lines")
            values |= read
    return values


def folder(name: str) -> Path:
    """One of ``folders`` in globals.yml, relative to the project's root.

    Raises:
        ConfigError: When it is not there.
    """
    folders = read_globals().get("folders", {})
    if name not in folders:
        raise ConfigError(f"globals.yml names no folder {name!r}.", action=f"add `folders.{name}` to {GLOBALS}")
    return Path(folders[name])
