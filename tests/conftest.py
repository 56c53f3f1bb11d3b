"""Fixtures that every area's tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROJECT = Path(__file__).parents[1]
REFERENCES = PROJECT.parent / "shared" / "fixtures"


@pytest.fixture(scope="session")
def numeric_reference() -> Callable[[str], Mapping[str, np.ndarray[Any, Any]]]:
    """Arrays computed with the official code; a test that asks for one that is not there is skipped."""

    def read(name: str) -> Mapping[str, np.ndarray[Any, Any]]:
        path = REFERENCES / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"the numeric reference {name}.npz is not beside the project")
        with np.load(path) as arrays:
            return dict(arrays)

    return read


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of its own to run commands in: this one's code and configuration, an empty ``data``."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)  # Kedro wants the folder itself inside of the project
    for name in ("src/dinomill", "pipelines", "pyproject.toml"):
        (root / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "conf", root / "conf", ignore=shutil.ignore_patterns("local"))
    (root / "conf" / "local").mkdir()
    (root / "data").mkdir()
    return root


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Encoded photographs of different sizes and shapes: JPEG, PNG and grey."""
    import io

    from PIL import Image
    from skimage import data

    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.camera(), data.cat()]
    encoded = []
    for number, pixels in enumerate(pictures):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG" if number == 2 else "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an exported backbone: a small vision transformer with random weights."""
    import torch

    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone, variant

    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    # Without a gain of 1 the branches would hardly count and all embeddings would be alike.
    model = build(variant("nano", patch_size=8, image_size=64, layerscale=1.0))
    save_backbone(folder, model, PreprocessingConfig.square(64, (0.5,) * 3, (0.25,) * 3).section())
    return folder
