from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from dinomill.commands import verbs_on_networks
from dinomill.commands.project import folder
from dinomill.errors import ConfigError, MachineError
from dinomill.handles import PackageHandle
from dinomill.storage.hashing import hash_file


@pytest.fixture
def packaged(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    place = folder("package").absolute()
    archive = place / "model_store" / "mill.mar"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model-config.yaml", "handler: {threads: 1}\n")
        file.writestr("config.json", '{"preprocessing": {"mean": [0.5, 0.5, 0.5]}}')
    PackageHandle(
        folder=place,
        config_hash="",
        archive=archive,
        archive_sha256=hash_file(archive),
        model="mill",
        version=3,
        embed_dim=1,
        smoke={},
    ).save()
    return project


def test_it_runs_as_the_configuration_says(packaged: Path) -> None:
    """The command knew its defaults alone: a Java that was configured was not used."""
    (packaged / "conf" / "local" / "parameters.yml").write_text("packaging: {server: {java_home: /nowhere/java}}\n")
    with pytest.raises(MachineError, match="no usable one") as caught:
        verbs_on_networks.serve()
    assert "/nowhere/java" in str(caught.value)


def test_a_wrong_setting_is_said_before_anything_starts(packaged: Path) -> None:
    (packaged / "conf" / "local" / "parameters.yml").write_text("packaging: {server: {queue: 0}}\n")
    with pytest.raises(ConfigError, match="queue"):
        verbs_on_networks.serve()
