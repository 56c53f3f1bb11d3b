from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.errors import ConfigError, InputError, MachineError
from dinomill.handles import PackageHandle
from dinomill.serving.litserve.folder import Target, write_folder
from dinomill.serving.litserve.settings import SETTINGS, Settings
from dinomill.serving.torchserve.run_folder import take_folder

# Imports all that the server and its worker need, where none of the packages that only the factory needs can be.
_CODE = """
import runpy, sys
for name in "mlflow kedro dvc great_expectations sklearn faiss ray pandas boto3 pyarrow ts aiohttp".split():
    sys.modules[name] = None  # as if it were not installed
folder = sys.argv[1]
runpy.run_path(folder + "/server.py")
import dinomill.serving.litserve.queued, dinomill.serving.gateway.app, dinomill.serving.gateway.say
import dinomill.serving.gateway.fleet, dinomill.serving.gateway.protocol, dinomill.serving.worker
from dinomill.serving.predictor import Predictor
assert dinomill.__file__.startswith(folder), dinomill.__file__
print(Predictor(folder + "/model").embed_dim)
"""


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_is_whole_lean_and_says_what_it_is(folder: Path, package: Path, target: Target, tmp_path: Path) -> None:
    handle, settings = PackageHandle.load(package), Settings.read(folder)
    assert (settings.model, settings.version, settings.archive_sha256) == ("mill", "3", handle.archive_sha256)
    assert settings.limits["max_instances"] == 4
    assert (settings.workers, settings.startup_seconds, settings.backend) == (1, 90, "eager float32")
    assert (
        "Licence of the weights: cc-by-4.0. They were distilled from a teacher." in (folder / "README.md").read_text()
    )
    assert {path.name for path in (folder / "model").iterdir()} == {"config.json", "model.safetensors"}
    assert PackageHandle.load(folder).archive_sha256 == handle.archive_sha256
    areas = {path.name for path in (folder / "dinomill").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert areas == {"features", "images", "models", "serving", "storage"}
    assert {path.name for path in (folder / "dinomill/serving/torchserve").glob("*.py")} == {
        "__init__.py",
        "run_folder.py",
    }
    lines = (folder / "requirements.txt").read_text().split()
    names = {line.split("==")[0] for line in lines}
    assert {"litserve", "uvicorn", "starlette", "torch", "httptools", "imagecodecs"} <= names
    assert not names & {"torchserve", "mlflow", "kedro", "pandas", "aiohttp", "boto3"}
    write_folder(tmp_path / "again", target)
    assert _hashes(tmp_path / "again") == _hashes(folder)


@pytest.mark.slow
def test_it_needs_nothing_of_the_factory(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(folder)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "64"


@pytest.mark.slow
def test_what_fails_its_trial_is_not_kept(target: Target, tmp_path: Path) -> None:
    place = tmp_path / "folder"

    def refuse(made: Path) -> None:
        assert (made / SETTINGS).is_file()
        raise MachineError("It answers wrongly.")

    with pytest.raises(MachineError, match="answers wrongly"):
        write_folder(place, target, refuse)
    assert not list(tmp_path.iterdir())
    write_folder(place, target)
    before = _hashes(place)
    with pytest.raises(MachineError, match="answers wrongly"):
        write_folder(place, target, refuse)
    assert _hashes(place) == before


def test_other_folders_and_damaged_archives_are_refused(package: Path, target: Target, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="something else"):
        write_folder(tmp_path / "mine", target)
    shutil.copytree(package, tmp_path / "damaged")
    archive = tmp_path / "damaged" / "model_store" / "mill.mar"
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(InputError, match="not the archive"):
        write_folder(tmp_path / "folder", target._replace(package=tmp_path / "damaged"))
    assert not (tmp_path / "folder").exists()
    with pytest.raises(ConfigError, match="cannot be read"):
        Settings.read(tmp_path / "mine")


def test_only_a_folder_for_litserve_is_replaced(folder: Path, target: Target, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / SETTINGS).write_text('{"theme": "dark"}')
    for _ in range(2):
        with pytest.raises(ConfigError, match="something else"):
            write_folder(place, target)
        shutil.copy(folder / SETTINGS, place / SETTINGS)  # ours, but there is no server beside it
    assert [path.name for path in place.iterdir()] == [SETTINGS]


def test_a_folder_of_before_is_ours_and_cores_are_counted_elsewhere(folder: Path, tmp_path: Path) -> None:
    said = json.loads((folder / SETTINGS).read_text())
    said |= {"backend": "openvino bfloat16", "workers": 0}
    said.pop("startup_seconds")
    (tmp_path / SETTINGS).write_text(json.dumps(said))
    found = Settings.read(tmp_path)
    assert (found.backend, found.startup_seconds, found.workers) == ("eager float32", 120, 0)
    assert found.worker_count() == min(4, os.cpu_count() or 1)


def test_where_it_ran_stays_and_a_server_there_is_not_disturbed(target: Target, tmp_path: Path) -> None:
    place, made = tmp_path / "folder", tmp_path / "folder" / "run" / "tokens.json"
    write_folder(place, target)
    lock = take_folder(place / "run")
    made.write_text("{}")
    made.chmod(0o600)
    with pytest.raises(MachineError, match="A server runs from") as seen:
        write_folder(place, target)
    assert str(os.getpid()) in str(seen.value)
    os.close(lock)
    started: list[int] = []
    with pytest.raises(MachineError, match="A server runs from"):  # it starts during the trial
        write_folder(place, target, lambda _: started.append(take_folder(place / "run")))
    os.close(started[0])
    (place / "README.md").write_text("old")
    write_folder(place, target)
    assert made.read_text() == "{}"
    assert made.stat().st_mode & 0o777 == 0o600
    assert (place / "README.md").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_killed_processes_left_is_swept(target: Target, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, young, running = (tmp_path / f".folder.{number}.tmp" for number in (ended.pid, 2**22 + 1, os.getppid()))
    for path in (old, young, running):
        path.mkdir()
    for path in (old, running):
        os.utime(path, (1, 1))
    write_folder(tmp_path / "folder", target)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", young.name, running.name}
