"""The tutorial's commands, one after the other, as they are printed: in a project of their own, with real images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands.programs import BIN
from tests.conftest import PROJECT

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
# Of every test run: the environment is the one that runs the tests.
_INSTALLING = ("make setup", ". .venv/bin/activate")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorial_works_as_printed(tmp_path: Path) -> None:
    text = (PROJECT / "docs/tutorial.md").read_text(encoding="utf-8")
    commands = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
    assert [command for command in commands if command in _INSTALLING] == list(_INSTALLING)
    project = tmp_path / "project"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith("tests/") or not (PROJECT / name).is_file():
            continue
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, project / name)
    for command in (["git", "init", "-q"], ["git", "add", "."], ["git", *_ME, "commit", "-q", "-m", "The clone"]):
        subprocess.run(command, cwd=project, check=True)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "PYTHONPATH": str(project / "src"),
    }
    # The clone's `make` would install: the environment that runs this test stands in for its .venv.
    makefile = project / "Makefile"
    makefile.write_text(makefile.read_text(encoding="utf-8").replace(": $(READY)", ":"), encoding="utf-8")
    for command in commands:
        if command in _INSTALLING:
            continue
        done = subprocess.run(
            ["bash", "-c", command], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stdout + done.stderr, command
    for block in _PYTHON.findall(text):
        subprocess.run([BIN / "python", "-c", block], cwd=project, env=environment, check=True)
    assert (project / "seeds.parquet").is_file() and (project / "model.onnx").is_file()


_ME = ("-c", "user.name=Reader", "-c", "user.email=reader@example.org")
