"""An environment's files: what is there, what writing would change, and writing that is whole or has not happened.

conf/NAME/plan.json        the prediction, and the sha256 of each file as this tool wrote it: without it, unfinished
conf/.NAME.<pid>.tmp/      the environment as it will be, while it is written
conf/.NAME.<pid>.old/      the one before, for the moment between two renames
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dinomill.errors import InputError
from dinomill.planning.environment import CONF
from dinomill.planning.prediction import PLAN_NAME, Prediction
from dinomill.stages import STAGES
from dinomill.storage.atomic import storage_errors, write_text
from dinomill.storage.hashing import hash_bytes


class Change(NamedTuple):
    """What writing a file would do."""

    path: Path
    before: str | None  # None: it is not there
    after: str | None  # None: it would be removed
    by_hand: bool  # it is not as this tool left it

    @property
    def diff(self) -> str:
        """Unified; empty when nothing changes."""
        lines = difflib.unified_diff(
            (self.before or "").splitlines(keepends=True),
            (self.after or "").splitlines(keepends=True),
            "/dev/null" if self.before is None else str(self.path),
            "/dev/null" if self.after is None else str(self.path),
            n=1,
        )
        return "".join(lines)


def require_room(name: str, root: Path) -> None:
    """Bring back what a killed run had moved away, and refuse what is in the way of the files.

    Raises:
        InputError: Naming what is a file where a folder belongs, or a folder where a file belongs.
        StorageError: When the folder of the configuration cannot be written.
    """
    folder = CONF / name
    _recover(root / folder)
    for path in (folder, *(folder / stage for stage in STAGES)):
        if os.path.lexists(root / path) and not (root / path).is_dir():
            raise InputError(
                f"{path} is in the way.",
                found="a link to nothing" if not (root / path).exists() else "a file",
                expected="a folder, or nothing",
                action="move it away, or choose another name for the environment",
            )
    files = (folder / "globals.yml", folder / PLAN_NAME, *(folder / stage / "parameters.yml" for stage in STAGES))
    for path in files:
        if os.path.lexists(root / path) and not (root / path).is_file():
            raise InputError(
                f"{path} is in the way.",
                found="a folder" if (root / path).is_dir() else "a link to nothing, or no file",
                expected="a file, or nothing",
                action="move it away, or choose another name for the environment",
            )


def changes(files: Mapping[Path, str], root: Path = Path()) -> list[Change]:
    """What writing the files would change of those that are there; files written before and not now would go.

    Args:
        files: Texts by path, as `render` gives them; all in one environment.
        root: The project.
    """
    folder = next(iter(files)).parent
    known = _written(root / folder / PLAN_NAME)
    found = []
    for path in dict.fromkeys([*files, *(folder / name for name in known)]):
        before = _text(root / path)
        by_hand = before is not None and known.get(path.relative_to(folder).as_posix()) != hash_bytes(before.encode())
        change = Change(path, before, files.get(path), by_hand)
        if change.before != change.after:
            found.append(change)
    return found


def is_finished(files: Mapping[Path, str], root: Path = Path()) -> bool:
    """Whether the prediction beside these files is there and of them: it is what is written last."""
    folder = next(iter(files)).parent
    return _written(root / folder / PLAN_NAME) == _hashes(files)


def only_missing(found: Sequence[Change], files: Mapping[Path, str], root: Path = Path()) -> bool:
    """Whether an earlier run was cut short: no prediction, and what is there is as it should be."""
    folder = next(iter(files)).parent
    begun = any((root / path).is_file() for path in files)
    return begun and not _written(root / folder / PLAN_NAME) and all(change.before is None for change in found)


def write(files: Mapping[Path, str], prediction: Prediction, root: Path = Path()) -> None:
    """Write every file and the prediction: all of them, or, when it is stopped, none.

    What else is in the folder stays in it.

    Raises:
        StorageError: When the disk is full or not writable.
    """
    folder = next(iter(files)).parent
    gone = [change.path for change in changes(files, root) if change.after is None]
    target = (root / folder).resolve()  # behind a link the folder is replaced, not the link
    _recover(target)
    temporary, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with storage_errors(root / folder):
        try:
            if target.is_dir():
                _copy(target, temporary)
            temporary.mkdir(parents=True, exist_ok=True)
            for path in gone:
                (temporary / path.relative_to(folder)).unlink(missing_ok=True)
            for path, text in files.items():
                write_text(temporary / path.relative_to(folder), text)
            prediction.model_copy(update={"files": _hashes(files)}).save(temporary / PLAN_NAME)
            if target.exists():
                target.rename(old)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _recover(target)


def _copy(folder: Path, temporary: Path) -> None:
    """What else is in the folder, a catalogue or DVC's files, is carried over."""
    try:
        shutil.copytree(folder, temporary, symlinks=True)
    except shutil.Error as error:
        place, _, reason = error.args[0][0]
        raise InputError(
            f"{place} cannot be read.",
            found=str(reason),
            expected="files of configuration, which are kept",
            action=f"move it out of {folder}, or give this user the right to read it",
        ) from None


def _recover(target: Path) -> None:
    """Remove what a killed run left, or bring back what it had moved away."""
    for old in sorted(target.parent.glob(f".{target.name}.*.old")):
        if os.path.lexists(target):
            shutil.rmtree(old, ignore_errors=True)
        else:
            with storage_errors(target):
                old.rename(target)
    for temporary in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)


def _hashes(files: Mapping[Path, str]) -> dict[str, str]:
    folder = next(iter(files)).parent
    return {path.relative_to(folder).as_posix(): hash_bytes(text.encode()) for path, text in files.items()}


def _text(path: Path) -> str | None:
    """What a file says, lines ended by one character; None when it is not there. It may be of anybody's making."""
    if not path.is_file():
        return None
    with storage_errors(path):
        return path.read_bytes().decode("utf-8", "backslashreplace").replace("\r\n", "\n")


def _written(path: Path) -> dict[str, str]:
    """The hashes of the files that this tool wrote; none where it did not finish, or wrote none."""
    if not path.is_file():
        return {}
    try:
        files = Prediction.load(path).files
    except InputError:
        return {}
    # What is no longer needed is removed: a damaged file must not name one outside of the environment.
    return {name: digest for name, digest in files.items() if _is_inside(PurePosixPath(name))}


def _is_inside(path: PurePosixPath) -> bool:
    return not path.is_absolute() and ".." not in path.parts and path.suffix == ".yml"
