from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinomill.serving.fetched import hold, is_whole, remove_old
from dinomill.storage.hashing import hash_bytes

_HELD = """
import sys, time
from pathlib import Path
from dinomill.serving.fetched import hold
assert hold(Path(sys.argv[1])) is not None
print("held", flush=True)
time.sleep(600)
"""


def _folder(cache: Path, name: str, age: float) -> Path:
    (cache / name).mkdir(parents=True)
    (cache / name / "a").write_bytes(b"x")
    os.utime(cache / name, (time.time() - age,) * 2)
    return cache / name


def _version(cache: Path, version: int, age: float, model: str = "mill") -> Path:
    return _folder(cache, f"{model}-{version}-{version:016x}", age)


def _left(cache: Path) -> set[str]:
    return {path.name.rsplit("-", 1)[0] for path in cache.iterdir()}


def test_the_present_and_the_one_before_stay(tmp_path: Path) -> None:
    folders = [_version(tmp_path, number, age=86_400 * (9 - number)) for number in range(1, 6)]
    remove_old(tmp_path, folders[-1])
    assert _left(tmp_path) == {"mill-4", "mill-5"}


def test_so_does_what_another_process_serves_and_is_not_counted(tmp_path: Path) -> None:
    folders = [_version(tmp_path, number, age=86_400 * (9 - number)) for number in range(1, 6)]
    with subprocess.Popen([sys.executable, "-c", _HELD, str(folders[3])], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        remove_old(tmp_path, folders[-1])
        assert _left(tmp_path) == {"mill-3", "mill-4", "mill-5"}
        other.kill()
    remove_old(tmp_path, folders[-1])
    assert _left(tmp_path) == {"mill-4", "mill-5"}


def test_what_somebody_may_be_about_to_serve_stays(tmp_path: Path) -> None:
    folders = [_version(tmp_path, number, age=60 * (9 - number)) for number in range(1, 6)]
    remove_old(tmp_path, folders[-1])
    assert len(_left(tmp_path)) == 5


def test_what_is_not_of_that_model_stays(tmp_path: Path) -> None:
    present = _version(tmp_path, 9, age=0)
    names = ["thesis", "mill-1", "mill-1-cafe", "mill-big-1-00000000000000ff", "mil-1-0000000000000001"]
    for name in names:
        _folder(tmp_path, name, age=1e7)
    (tmp_path / "mill-1-00000000000000aa").write_text("a file")
    remove_old(tmp_path, present)
    assert {*names, "mill-1-00000000000000aa"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("end", ["tmp", "old"])
def test_what_a_killed_fetch_left_is_removed_after_a_day(tmp_path: Path, end: str) -> None:
    present = _version(tmp_path, 9, age=0)
    old = _folder(tmp_path, f".mill-8-{8:016x}.123.{end}", age=90_000)
    fresh = _folder(tmp_path, f".mill-8-{8:016x}.124.{end}", age=3600)
    other = _folder(tmp_path, f".thesis.123.{end}", age=90_000)
    remove_old(tmp_path, present)
    assert not old.exists()
    assert fresh.exists() and other.exists()


def test_being_asked_for_makes_it_the_latest(tmp_path: Path) -> None:
    folder = _version(tmp_path, 1, age=1e6)
    assert not is_whole(folder, {"a": hash_bytes(b"y")})
    assert not is_whole(folder, {"a": hash_bytes(b"x"), "b": ""})
    assert time.time() - folder.stat().st_mtime > 1e5
    assert is_whole(folder, {"a": hash_bytes(b"x")})
    assert time.time() - folder.stat().st_mtime < 60
    assert not is_whole(tmp_path / "nothing", {})


def test_one_folder_can_be_held_by_many(tmp_path: Path) -> None:
    held = [hold(tmp_path), hold(tmp_path)]
    assert None not in held
    for one in held:
        assert one is not None
        os.close(one)
    assert hold(tmp_path / "nothing") is None
