"""A project that was moved or copied runs its own code, not that of the place where `.venv` was made."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def moved() -> ModuleType:
    spec = importlib.util.spec_from_file_location("moved", PROJECT / "requirements/moved.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("first", ["there", "a place with spaces/ü 'quoted'"])
def test_programs_start_where_they_lie_now(tmp_path: Path, moved: ModuleType, first: str) -> None:
    old, new = tmp_path / "old", tmp_path / first
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(old / ".venv")], check=True)
    program = old / ".venv/bin/say"
    program.write_text(f"#!{old}/.venv/bin/python\nimport sys; print(sys.prefix)\n", encoding="utf-8")
    program.chmod(0o755)
    again = tmp_path / "again"
    shutil.copytree(old, new, symlinks=True)
    assert _say(new) == str(old / ".venv")  # the fault: a copy runs the original
    assert moved.follow(new / ".venv/bin", old / ".venv", new / ".venv") >= 1
    assert _say(new) == str(new / ".venv")
    assert _say(old) == str(old / ".venv")
    assert moved.follow(new / ".venv/bin", old / ".venv", new / ".venv") == 0
    activate = (new / ".venv/bin/activate").read_text(encoding="utf-8")
    assert str(old / ".venv") not in activate
    new.rename(again)  # and once more, from the form that a shell reads
    moved.follow(again / ".venv/bin", new / ".venv", again / ".venv")
    assert _say(again) == str(again / ".venv")


def test_make_asks_for_it_only_where_the_place_is_another(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.copytree(PROJECT / "requirements", tmp_path / "requirements")
    (tmp_path / ".venv").mkdir()
    stamp = tmp_path / ".venv/.ready"
    for said, wanted in ((str(tmp_path), False), ("", False), ("/somewhere/else", True)):
        stamp.write_text(f"{said}\n" if said else "", encoding="utf-8")
        os.utime(stamp)
        done = subprocess.run(["make", "-n", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ("requirements/install.sh" in done.stdout) == wanted, said


def _say(project: Path) -> str:
    done = subprocess.run([project / ".venv/bin/say"], capture_output=True, text=True, check=True)
    return done.stdout.strip()
