"""Where the LitServe folders of a project lie: `dinomill lineage` looks for the logs of their servers there.

<package>-litserve/          unless `dinomill package` is told otherwise
<work>/litserve.txt          the other folders that it wrote, one a line
"""

from __future__ import annotations

from pathlib import Path

from dinomill.storage.atomic import write_text

_NOTED = "litserve.txt"


def folder_beside(package: Path) -> Path:
    """The folder that is made of a package, unless told otherwise."""
    return package.with_name(f"{package.name}-litserve")


def note_folder(work: Path, folder: Path) -> None:
    """Note a folder that lies elsewhere."""
    noted = noted_folders(work)
    if folder.absolute() not in noted:
        write_text(work / _NOTED, "".join(f"{one}\n" for one in (*noted, folder.absolute())))


def noted_folders(work: Path) -> list[Path]:
    """The folders that were noted, in that order."""
    try:
        return [Path(line) for line in (work / _NOTED).read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError):  # none
        return []
