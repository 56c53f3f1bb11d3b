"""What killed processes of this machine left beside a folder that `atomic_folder` writes: removed, or put back.

<parent>/.<name>.<pid>.tmp   what was being written
<parent>/.<name>.<pid>.old   the folder of before, on its way out
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ABANDONED = 3600.0  # seconds without a change


def sweep(folder: Path, *, keep: str | None = None) -> None:
    """Remove what is left; the folder of before takes its place again where there is no other.

    Args:
        folder: As it was or will be written.
        keep: What the folder of before hands on to the new one, as `atomic_folder` was told.
    """
    for old in _left(folder, "old"):
        with suppress(OSError):
            _put_back(old, folder, keep)
    for unfinished in _left(folder, "tmp"):
        with suppress(OSError):
            # On a shared disk it may be another machine's process: what is at work there is younger.
            if time.time() - unfinished.stat().st_mtime > _ABANDONED:
                shutil.rmtree(unfinished, ignore_errors=True)


def _put_back(old: Path, folder: Path, keep: str | None) -> None:
    if not folder.exists():  # killed between the two renames
        old.rename(folder)
        return
    if keep is not None and (old / keep).exists() and not (folder / keep).exists():
        (old / keep).rename(folder / keep)
    shutil.rmtree(old, ignore_errors=True)


def _left(folder: Path, kind: str) -> Iterator[Path]:
    """What processes that run no more have left, the newest first."""
    found = []
    for path in folder.parent.glob(f".{folder.name}.*.{kind}"):
        number = path.name.removeprefix(f".{folder.name}.").removesuffix(f".{kind}")
        with suppress(OSError):
            if number.isdigit() and not _runs(int(number)):
                found.append((path.stat().st_ctime, path))
    yield from (path for _, path in sorted(found, reverse=True))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
