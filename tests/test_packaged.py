"""`kedro package`: its wheel and its archive of configuration run where there is no project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import yaml

from dinomill.config_loader import LayeredConfigLoader
from dinomill.errors import ConfigError
from tests.commands.programs import BIN, SMALL, run
from tests.conftest import PROJECT


def test_an_archive_of_configuration_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "conf-dinomill.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(PROJECT / "conf/base", "conf/base")
    loader = LayeredConfigLoader(archive)
    assert loader["globals"]["data"] == "data" and loader["parameters"]["pretraining"]["steps"] > 0


@pytest.mark.parametrize("content", [b"no archive", None])
def test_what_is_no_archive_of_configuration_is_said(tmp_path: Path, content: bytes | None) -> None:
    archive = tmp_path / "conf.tar.gz"
    if content is None:
        with tarfile.open(archive, "w:gz") as file:
            file.add(PROJECT / "NOTICE", "NOTICE")
    else:
        archive.write_bytes(content)
    with pytest.raises(ConfigError, match=r"conf\.tar\.gz"):
        LayeredConfigLoader(archive)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_runs_outside_of_the_project(tmp_path: Path) -> None:
    """Built by Kedro (which fetches setuptools), installed into an environment of its own, run with the archive."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "local", "*.egg-info")
    for name in ("src", "pipelines", "conf"):
        shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(PROJECT / name, source / name)
    path = source / "conf/base/sample/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["sample"] |= SMALL
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    run(source, "kedro", "package")
    (wheel,), (archive,) = source.glob("dist/*.whl"), source.glob("dist/conf-*.tar.gz")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    # What it requires is borrowed: a line in a .pth file does not follow the editable installation that lies there.
    (site / "required.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    shutil.unpack_archive(wheel, site, "zip")
    alone = tmp_path / "alone"
    (alone / "data").mkdir(parents=True)
    (alone / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    python = tmp_path / "venv/bin/python"
    where = subprocess.run(
        [python, "-c", "import dinomill; print(dinomill.__file__)"],
        cwd=alone,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site)
    environment = {**os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    command = [python, "-m", "dinomill", "--conf-source", str(archive), "--pipelines", "sample"]
    done = subprocess.run(command, cwd=alone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (alone / "data/01_raw/sample/handle.json").is_file()
