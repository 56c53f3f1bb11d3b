"""Secrets of the environment are in nothing that packaging leaves: archive, logs of the trial, handle, container."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinomill.deployment.folder import Deployment, write_deployment
from dinomill.handles import DatasetHandle, RegistrationHandle
from dinomill.packaging import package_model
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.torchserve.properties import ServerConfig
from tests.packaging.test_package import _config, curated, registered

__all__ = ["curated", "registered"]  # fixtures

_SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-aws-id",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow",
    "HF_TOKEN": "planted-hf",
    "DATABASE_URL": "postgresql://somebody:planted-database@example.org/db",  # its name says nothing of a secret
    "PIP_INDEX_URL": "https://somebody:planted-index@example.org/simple",
}


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All bytes of all files, and of what lies in archives."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as file:
                    for name in file.namelist():
                        yield f"{path}: {name}", file.read(name)


def test_nothing_of_a_secret_is_left(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in _SECRETS.items():
        monkeypatch.setenv(name, value)
    server = ServerConfig(workers=1, threads=1)
    handle = package_model(registered, curated, _config(tmp_path, server=server.model_dump()))
    write_deployment(tmp_path / "container", Deployment(handle.folder, server, GatewayConfig()))
    looked = dict(_contents(tmp_path))
    assert any("model.safetensors" in name for name in looked)
    assert any(name.endswith("console.log") for name in looked)
    assert any(name.endswith("Dockerfile") for name in looked)
    found = [name for name, data in looked.items() if b"planted-" in data]
    assert found == []
