"""The environments of a project: the folders of ``conf`` that say what differs from ``conf/base``.

conf/fashion/globals.yml                        the environment `fashion`
conf/fashion/pretraining/parameters.yml         a part of it: folders named after stages are
conf/paper/vitl14/pretraining/parameters.yml    the environment `paper/vitl14`; `paper` holds some and is none
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from dinomill.errors import ConfigError
from dinomill.stages import STAGES

CONF = Path("conf")
BASE = "base"
LOCAL = "local"

# As Kedro names them; globals that refer to others stand in a file of their own.
_PATTERNS = {
    "globals": ("globals.yml", "globals_folders.yml"),
    "parameters": ("parameters*",),
    "catalog": ("catalog*",),
    "credentials": ("credentials*",),
}
_SUFFIXES = (".yml", ".yaml", ".json")


def environments(conf: Path = CONF) -> list[str]:
    """The names that ``--env`` takes, sorted; the base and what is local belong to every one of them."""
    found = (folder.relative_to(conf) for folder in _environments(conf, within=False))
    return sorted(path.as_posix() for path in found if path.parts[0] not in (BASE, LOCAL))


def check_environment(env: str | None, conf: Path = CONF) -> str | None:
    """The name of an environment as it is used everywhere, or None for no more than base and local.

    Raises:
        ConfigError: When there is no such environment; says which there are.
    """
    # `conf/fashion/` is what a shell completes.
    name = (env or "").strip("/").removeprefix(f"{conf.name}/")
    if name in ("", BASE, LOCAL):
        return None
    known = environments(conf)
    if name in known:
        return name
    inside = [other for other in known if other.startswith(f"{name}/")]
    if inside:
        raise ConfigError(
            f"{name} holds recipes and is no environment itself.",
            expected=", ".join(f"--env {other}" for other in inside),
            action="type one of them",
        )
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    raise ConfigError(
        f"There is no environment {name!r}" + (f"; did you mean {close[0]!r}?" if close else "."),
        found=f"no globals or parameters in {conf.name}/{name}",
        expected=f"one of {', '.join(known)}" if known else f"a folder of {conf.name}",
        action=f"type one of them, or leave out --env: {conf.name}/{BASE} and {conf.name}/{LOCAL} apply then",
    )


def env_option(env: str | None) -> str:
    """What a command that is shown has to end with, to mean the same environment."""
    return f" --env {env}" if env else ""


def make_run(env: str | None) -> str:
    """The command that makes the results of an environment."""
    return "make run" + (f" ENV={env}" if env else "")


def layers_of(env: str | None, conf: Path = CONF) -> list[Path]:
    """The folders that are laid over one another, the lowest first."""
    return [conf / BASE, *([conf / env] if env else []), conf / LOCAL]


def files_of(folder: Path, kind: str) -> list[Path]:
    """A layer's files of a kind, sorted: in its folder and below it, but not in environments that lie there."""
    places = [folder] if kind == "globals" else [folder, *_below(folder)]
    return sorted(path for place in places for path in _configuration(place, kind))


def _environments(folder: Path, *, within: bool) -> Iterator[Path]:
    for path in _subfolders(folder):
        if path.name in STAGES:
            continue
        # Within an environment a folder may be a mere part of it, however it is called.
        one = _stands_alone(path) or (not within and _any_configuration(path))
        if one:
            yield path
        yield from _environments(path, within=within or one)


def _below(folder: Path) -> Iterator[Path]:
    for path in _subfolders(folder):
        if not _stands_alone(path):
            yield path
            yield from _below(path)


def _stands_alone(folder: Path) -> bool:
    """Whether a folder is an environment wherever it lies: it has globals of its own, or a stage's folder."""
    return (folder / "globals.yml").is_file() or any(_any_configuration(folder / stage) for stage in STAGES)


def _any_configuration(folder: Path) -> bool:
    return any(_configuration(folder, kind) for kind in _PATTERNS)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _configuration(folder: Path, kind: str) -> list[Path]:
    if not folder.is_dir():
        return []
    likely = (path for path in folder.iterdir() if any(fnmatch(path.name, like) for like in _PATTERNS[kind]))
    return [path for path in likely if path.suffix in _SUFFIXES and path.is_file()]
