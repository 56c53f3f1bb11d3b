"""What a killed process left beside a folder is removed, or is the folder again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.storage.left_behind import sweep

# Replaces a folder, and is killed when one of its renames is done, by number.
_KILLED = """
import os, signal, sys
from pathlib import Path
from dinomill.storage.atomic import atomic_folder
rename, left = Path.rename, [int(sys.argv[2])]
def killed(path, target):
    rename(path, target)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Path.rename = killed
with atomic_folder(Path(sys.argv[1]), keep="run") as made:
    (made / "new").touch()
"""


@pytest.mark.parametrize(("renames", "then"), [(1, {"old", "run"}), (2, {"new", "run"}), (3, {"new", "run"})])
def test_a_kill_within_the_renames_loses_nothing(tmp_path: Path, renames: int, then: set[str]) -> None:
    folder = tmp_path / "folder"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "tokens.json").write_text("{}")
    (folder / "old").touch()
    done = subprocess.run([sys.executable, "-c", _KILLED, str(folder), str(renames)], check=False)
    assert done.returncode == -signal.SIGKILL
    for path in tmp_path.glob(".folder.*.tmp"):
        os.utime(path, (1, 1))
    assert {path.name for path in tmp_path.iterdir()} != {"folder"}
    sweep(folder, keep="run")
    assert {path.name for path in tmp_path.iterdir()} == {"folder"}
    assert {path.name for path in folder.iterdir()} == then
    assert (folder / "run" / "tokens.json").read_text() == "{}"


def test_what_a_running_process_does_is_its_own(tmp_path: Path) -> None:
    mine = [tmp_path / f".folder.{os.getpid()}.{kind}" for kind in ("old", "tmp")]
    others = [tmp_path / name for name in (".folder.x.old", ".other.1.old", ".folder.old")]
    for path in (*mine, *others):
        path.mkdir()
        os.utime(path, (1, 1))
    sweep(tmp_path / "folder")
    assert sorted(tmp_path.iterdir()) == sorted([*mine, *others])
