"""Finding the project that a command is meant for, and the few facts that commands need without starting Kedro."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError, InputError
from dinomill.handles import HANDLE_NAME
from dinomill.layers import Layers, environments, make_run
from dinomill.layers.project import GLOBALS, project_above


def enter_project() -> Path:
    """Make the project's root the working directory, from any of its sub-folders, and return it.

    Raises:
        InputError: Outside of a project.
    """
    here = Path.cwd()
    if (root := project_above(here)) is not None:
        os.chdir(root)
        return root
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


def result(name: str, env: str | None = None) -> Path:
    """The folder of a finished stage's result.

    Raises:
        InputError: When the stage has not run in this environment; names those in which it has.
    """
    place = folder(name, env)
    if (place / HANDLE_NAME).is_file():
        return place
    have = [other for other in environments() if (folder(name, other) / HANDLE_NAME).is_file() and other != env]
    have = [other for other in have if folder(name, other) != place]
    run = make_run(env)
    raise InputError(
        f"There is no {place / HANDLE_NAME} yet.",
        found=f"results of this kind in the environment{'s' if len(have) > 1 else ''} {', '.join(have)}"
        if have
        else None,
        expected=f"a finished run of {f'the environment {env}' if env else 'conf/base'}",
        action=(f"name the one that is meant: --env {have[0]}; or run this one: {run}" if have else f"run it: {run}"),
    )


def folder(name: str, env: str | None = None) -> Path:
    """One of an environment's ``folders``, relative to the project's root.

    Raises:
        ConfigError: When it is not there.
    """
    folders = read_globals(env).get("folders", {})
    if name not in folders:
        raise ConfigError(f"globals.yml names no folder {name!r}.", action=f"add `folders.{name}` to {GLOBALS}")
    return Path(folders[name])
