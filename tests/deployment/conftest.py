from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.deployment.folder import Deployment, write_deployment
from dinomill.handles import PackageHandle
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.requirements import archive_requirements
from dinomill.storage.hashing import hash_file

SERVER = ServerConfig(workers=1, threads=1)


@pytest.fixture(scope="session")
def package(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packaged model, as the stage leaves it but for what lies beside for readers."""
    folder = tmp_path_factory.mktemp("package")
    archive = build_archive(
        backbone, folder / "model_store", model="My.Mill_2", version="3", batching=BatchingConfig(), server=SERVER
    )
    (folder / "requirements.txt").write_text("\n".join(archive_requirements(archive)) + "\n")
    PackageHandle(
        folder=folder,
        made_of="test",
        archive=archive,
        archive_sha256=hash_file(archive),
        model="My.Mill_2",
        version=3,
        embed_dim=64,
        smoke={},
    ).save(folder)
    return folder


@pytest.fixture(scope="session")
def wanted(package: Path) -> Deployment:
    return Deployment(package, SERVER, GatewayConfig(), domain="embed.example.org")


@pytest.fixture(scope="session")
def written(wanted: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deployment(tmp_path_factory.mktemp("deployment") / "container", wanted)
