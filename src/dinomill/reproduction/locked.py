"""Settings as dvc.lock has them, file by file, and what a commit's own files say otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dinomill.tracking.dvc_commits import Files
from dinomill.tracking.texts import flatten

# Where things lie, which in another folder is elsewhere.
_PLACES = ("data", "dataset", "work", "folders", "tracking_uri", "artifact_root")


def merged(files: Files) -> dict[str, Any]:
    """Parameters by dotted name, each as the topmost layer says it."""
    return _merged(files, "parameters")


def differing(files: Files, project: Path) -> dict[str, dict[str, tuple[Any, Any]]]:
    """What a lock has, and the files of a project do not say so.

    Args:
        files: A stage's settings by the file that said them, as the lock has them.
        project: The commit's own.

    Returns:
        For ``parameters`` and ``globals``: by dotted name what the project says (None: nothing), and what the lock has.
        References of the kind ``${globals:…}`` are compared and handed on as they stand.
    """
    own = {file: _read(project / file) for file in _below_conf(project, files)}
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for kind in ("parameters", "globals"):
        then, now = _merged(files, kind), _merged(own, kind)
        missing = object()
        found[kind] = {
            name: (now.get(name), value)
            for name, value in then.items()
            if now.get(name, missing) != value and not (kind == "globals" and name.split(".")[0] in _PLACES)
        }
    return found


def _below_conf(project: Path, files: Iterable[str]) -> list[str]:
    """The files of the lock that the project has."""
    return [file for file in files if (project / file).is_file()]


def _merged(files: Files, kind: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for file in sorted((one for one in files if PurePosixPath(one).name.startswith(kind)), key=_layer):
        values |= flatten(files[file])
    return values


def _layer(file: str) -> tuple[int, str]:
    """The order in which files are laid over one another: base, the environment, local."""
    first = PurePosixPath(file).parts[1]
    return {"base": 0, "local": 2}.get(first, 1), file


def _read(path: Path) -> Mapping[str, Any]:
    """As DVC reads it: its numbers are those of YAML 1.2."""
    from dvc.utils.serialize import parse_yaml

    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if path.suffix == ".json" else parse_yaml(text, str(path))
    return found if isinstance(found, Mapping) else {}
