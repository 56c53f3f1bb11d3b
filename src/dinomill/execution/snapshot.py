"""The code and the job of a training as they were when it was started: what is edited later changes neither.

<work>/code/<hash>/dinomill/…   the package; equal code is kept once, and the newest three are
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from dinomill.storage.atomic import atomic_folder

_KEPT = 3
_LEFT_OUT = ("__pycache__", "pipelines")  # the workers know no Kedro


def keep_code(work: Path) -> Path:
    """Copy the package below a work folder; returns the folder to put before all others in ``PYTHONPATH``."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(path for path in package.rglob("*") if path.is_file() and _belongs(path.relative_to(package)))
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(data)}\0".encode() + data)
    place = (work / "code" / digest.hexdigest()[:16]).absolute()
    if not place.is_dir():
        with atomic_folder(place) as folder:
            for path in files:
                target = folder / package.name / path.relative_to(package)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    place.touch()  # the newest
    for old in sorted(place.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def keep_job(job: Path, folder: Path) -> Path:
    """Copy a job file, as ``job.json``, to the folder of one submission; failures are told beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(job, folder / "job.json")).absolute()


def next_folder(above: Path) -> Path:
    """A folder for one more submission: ``0001``, ``0002``, …"""
    taken = [int(path.name) for path in above.glob("[0-9]*") if path.name.isdigit()]
    return above.absolute() / f"{max(taken, default=0) + 1:04d}"


def _belongs(path: Path) -> bool:
    return path.parts[0] not in _LEFT_OUT and "__pycache__" not in path.parts
