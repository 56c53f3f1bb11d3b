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
