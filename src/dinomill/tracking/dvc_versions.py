"""What DVC calls a result: the hashes in its locks, by which the bytes are found again in its cache and its remote.

dvc.lock, conf/<name>/dvc.lock      outs, each with its md5; the paths in them start at the project's root
<cache>/files/md5/<2>/<30>.dir      the files of a folder, each with its md5
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import md5
from pathlib import Path
from typing import Any

from dinomill.addresses import redact
from dinomill.handles import HANDLE_NAME
from dinomill.layers.project import project_above

_LOCKS = ("dvc.lock", "conf/**/dvc.lock")


def dvc_version(folder: Path) -> str | None:
    """DVC's hash of a stage's folder: what its lock says, where that is what lies there now.

    A folder that was written since DVC last looked (by `kedro run`) has none. It is told by its handle, which names its
    content by hashes: nothing large is read.

    Args:
        folder: A stage's result, with its handle; relative to the project, or absolute.
    """
    root = project_above(Path.cwd())
    if root is None or not (root / folder / HANDLE_NAME).is_file():
        return None
    with suppress(ValueError, OSError):
        place = (root / folder).resolve().relative_to(root.resolve()).as_posix()
        present = md5((root / folder / HANDLE_NAME).read_bytes(), usedforsecurity=False).hexdigest()
        cache = cache_folder(root)
        for version in _in_locks(root, place):
            if (HANDLE_NAME, present) in _listed(cache, version):
                return version
    return None


def _listed(cache: Path, version: str) -> Iterator[tuple[str, str]]:
    """The files of a folder, each with its hash; none where DVC's cache does not have the folder, or has it damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        for one in json.loads((cache / version[:2] / version[2:]).read_text(encoding="utf-8")):
            yield one["relpath"], one["md5"]


def dvc_remote() -> str | None:
    """The address of the project's default remote, without secrets; None where there is none."""
    root = project_above(Path.cwd())
    if root is None:
        return None
    config = dvc_config(root)
    name = config.get("core", {}).get("remote")
    address = config.get("remote", {}).get(name, {}).get("url")
    return None if address is None else redact(str(address))


def _in_locks(root: Path, place: str) -> Iterator[str]:
    """The hashes that the project's locks have for a place."""
    for lock in (path for pattern in _LOCKS for path in sorted(root.glob(pattern))):
        for path, version in made_by(text_of(lock)):
            if path == place and version.endswith(".dir"):
                yield version


def text_of(lock: Path) -> str:
    """A lock's text; nothing where it cannot be read, which DVC itself says."""
    with suppress(OSError):
        return lock.read_text(encoding="utf-8", errors="replace")
    return ""


def made_by(lock: str) -> list[tuple[str, str]]:
    """What the stages of a lock made: paths, each with DVC's hash; what has another shape than DVC's counts not.

    Args:
        lock: Its text.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        read = yaml.load(lock, Loader=loader)
    except (yaml.YAMLError, ValueError):  # a date that is none is a ValueError
        return []
    stages = _mapping(_mapping(read).get("stages")).values()
    listed = [outs for stage in stages if isinstance(outs := _mapping(stage).get("outs"), list)]
    return [(str(out.get("path")), str(out.get("md5", ""))) for outs in listed for out in map(_mapping, outs)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def cache_folder(root: Path) -> Path:
    """Where DVC keeps files by their hash, ``<2>/<30>``."""
    said = dvc_config(root).get("cache", {}).get("dir")
    base = root / ".dvc" / "cache" if said is None else root / ".dvc" / str(said)
    return base / "files" / "md5"


def dvc_config(root: Path) -> Mapping[str, Any]:
    """DVC's configuration of the project; empty where it is no project of DVC's, or cannot be read."""
    if not (root / ".dvc").is_dir():
        return {}
    from dvc.config import Config, ConfigError

    try:
        found: Mapping[str, Any] = Config(dvc_dir=str(root / ".dvc"))
    except ConfigError:  # DVC itself says what is wrong with it
        return {}
    return found
