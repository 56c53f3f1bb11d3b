"""The dvc.yaml files of a project as they lie there: DVC reads all of them, and one that is wrong stops them all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dinomill.errors import InputError
from dinomill.layers import env_option


def dvc_files(root: Path = Path()) -> list[Path]:
    """Those that there are, the base's first, relative to the project's root."""
    others = (path.relative_to(root) for path in sorted((root / "conf").glob("**/dvc.yaml")))
    return [path for path in (Path("dvc.yaml"), *others) if (root / path).is_file()]


def environment_of(path: Path) -> str | None:
    """The environment that a file is of, by its path from the project's root; None: the base."""
    return path.parent.relative_to("conf").as_posix() if path.parent != Path() else None


def stages_of(path: Path) -> dict[str, Any]:
    """The stages of a file; none where it cannot be read, which `refuse_broken` says."""
    try:
        return _read(path)
    except InputError:
        return {}


def refuse_broken(root: Path = Path()) -> None:
    """Refuse a project in which DVC would stop at a file, whichever it was asked for; `kedro run` goes on without.

    Raises:
        InputError: Naming the file, what is wrong with it, and what to do.
    """
    mine: dict[Path, dict[str, Any]] = {}
    for path in dvc_files(root):
        env = environment_of(path)
        again = f"mend or remove it; `dinomill dvc sync{env_option(env)}` makes it anew"
        stages = _read(root / path, shown=path, action=again)
        mine[path] = stages
        for name, stage in stages.items():
            outs = [Path(out) for out in outs_of(stage)]
            around = [dep for dep in stage.get("deps") or () if any(overlap(out, Path(_place(dep))) for out in outs)]
            if around:
                raise InputError(
                    f"{path} stops DVC, whichever environment is asked for: a stage waits for itself.",
                    found=f"the stage {name} reads {_place(around[0])}, and its results lie there",
                    action=f"correct the source in {f'conf/{env}' if env else 'conf/base'}/globals.yml; then {again}",
                )

    results = {Path(out) for stages in mine.values() for stage in stages.values() for out in outs_of(stage)}
    for path in _others(root, results):
        if path not in mine:
            shown = path.as_posix()
            again = "correct it or remove it, or name its folder in .dvcignore if it is none of this project's"
            _read(root / path, shown=Path(f"{shown}, which DVC reads with all others of the project,"), action=again)


def _others(root: Path, outs: set[Path]) -> Iterator[Path]:
    """Whatever else DVC reads as a description of stages or data, wherever it lies."""
    passed_over = outs | _ignored(root)
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if name[0] != "." and not {here / name, Path(name)} & passed_over]
        yield from (here / name for name in files if name == "dvc.yaml" or Path(name).suffix == ".dvc")


def _ignored(root: Path) -> set[Path]:
    """Folders that .dvcignore names as they are, by their place or by a name that counts everywhere."""
    path = root / ".dvcignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    plain = (line.strip() for line in lines if line.strip() and not set(line) & set("#*?[!"))
    return {Path(line.strip("/")) for line in plain}


def _read(path: Path, shown: Path | None = None, action: str | None = None) -> dict[str, Any]:
    """A file's stages.

    Raises:
        InputError: When it cannot be read or is no dvc.yaml.
    """
    shown = shown or path
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        read = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{shown} cannot be read: {where}{error.problem}.", action=action) from None
    except (yaml.YAMLError, UnicodeError, OSError) as error:
        raise InputError(f"{shown} cannot be read: {' '.join(str(error).split())}.", action=action) from None
    stages = read.get("stages") if isinstance(read, dict) else read
    if stages is None:
        return {}
    good = isinstance(stages, dict) and isinstance(read, dict) and all(isinstance(one, dict) for one in stages.values())
    if not good:
        kind = type(stages).__name__
        raise InputError(
            f"{shown} cannot be read: it has no stages.", found=f"a {kind}", expected="stages: {…}", action=action
        )
    return dict(stages)


def outs_of(stage: dict[str, Any]) -> list[str]:
    """Where a stage's results lie."""
    return [_place(out) for out in stage.get("outs") or ()]


def _place(one: Any) -> str:
    return str(next(iter(one))) if isinstance(one, dict) else str(one)


def overlap(one: Path, other: Path) -> bool:
    """Whether one of two places lies in the other."""
    first, second = Path(one).resolve(), Path(other).resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)
