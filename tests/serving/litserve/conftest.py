"""A package as a LitServe folder, and a LitServe that a module's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dinomill.handles import PackageHandle
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.litserve.folder import Target, write_folder
from dinomill.serving.litserve.process import LitServe
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import free_ports
from dinomill.storage.hashing import hash_file

# Small limits, so that tests reach them; requests wait long enough for company to be of one batch.
SERVER = ServerConfig(workers=1, max_request_mb=1)
BATCHING = BatchingConfig(batch_size=16, max_delay_ms=100, max_instances=4, startup_seconds=90)


@pytest.fixture(scope="session")
def package(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the packaging stage leaves it, without the trial."""
    folder = tmp_path_factory.mktemp("package") / "v3"
    archive = build_archive(
        backbone, folder / "model_store", model="mill", version="3", batching=BATCHING, server=SERVER
    )
    sha256 = hash_file(archive)
    PackageHandle(
        folder=folder, made_of="", archive=archive, archive_sha256=sha256, model="mill", version=3, embed_dim=64,
        smoke={}, weights_sha256=hash_file(backbone / "model.safetensors"),
        lineage={"licence": "cc-by-4.0", "origin": "distilled from a teacher"},
    ).save()  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def target(package: Path) -> Target:
    return Target(package, SERVER, GatewayConfig(body_seconds=10))


@pytest.fixture(scope="session")
def folder(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("litserve") / "folder"
    write_folder(place, target)
    return place


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LitServe]:
    with LitServe(folder, tmp_path_factory.mktemp("run"), free_ports().inference) as server:
        server.wait_ready(120)
        yield server
