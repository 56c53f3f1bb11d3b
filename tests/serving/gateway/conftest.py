"""A package, another version of it, and a gateway that a module's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.gateway.served import Served, make_package, serving


@pytest.fixture(scope="session")
def other_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `backbone`, of other weights."""
    import torch

    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone, variant

    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    model = build(variant("nano", patch_size=8, image_size=64, layerscale=1.0))
    save_backbone(folder, model, PreprocessingConfig.square(64, (0.5,) * 3, (0.25,) * 3).section())
    return folder


@pytest.fixture(scope="session")
def package(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 3."""
    return make_package(tmp_path_factory.mktemp("package") / "v3", backbone, 3)


@pytest.fixture(scope="session")
def next_package(other_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 4."""
    return make_package(tmp_path_factory.mktemp("package") / "v4", other_backbone, 4)


@pytest.fixture(scope="module")
def served(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with version 3."""
    with serving(package, tmp_path_factory.mktemp("run"), body_seconds=2, header_seconds=2, stall_seconds=2) as running:
        yield running
