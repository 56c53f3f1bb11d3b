"""Where a project begins."""

from __future__ import annotations

from pathlib import Path

GLOBALS = Path("conf/base/globals.yml")


def project_above(here: Path) -> Path | None:
    """The root of the project that a folder lies in, at whatever depth; None outside of one."""
    for folder in (here, *here.parents):
        if (folder / GLOBALS).is_file() and (folder / "pyproject.toml").is_file():
            return folder
    return None


def kept_project(folder: Path) -> Path:
    """Where what a command records outlives it: the folder, or the same in the project that DVC copied for a while.

    ``dvc exp run --temp`` and ``--queue`` run in a copy below ``.dvc/tmp/exps``, which is removed with all that lies in
    it: a store of runs and models that is given by a relative path belongs to the project itself.

    Args:
        folder: Absolute.
    """
    for copy in (folder, *folder.parents):
        room = copy.parent.parent if copy.parent.name == "standalone" else copy.parent
        if room.name == "exps" and room.parent.name == "tmp" and room.parent.parent.name == ".dvc":
            return room.parent.parent.parent / folder.relative_to(copy)
    return folder
