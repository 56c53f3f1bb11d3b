"""ConvNeXts made elsewhere: the same numbers as transformers' own classes give, under every form's names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dinomill
from dinomill import features
from dinomill.errors import InputError
from dinomill.models.convnext import ConvNeXt
from dinomill.models.convnext_names import official_names
from dinomill.models.loading import read_weights
from tests.models.test_convnext import network

_SIZES = ((64, 64), (96, 64), (80, 112))  # the last one no multiple of the stride


def theirs(kind: str) -> Any:
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1]}
    if kind == "dinov3":
        model = transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**shape))
    elif kind == "classifier":
        model = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**shape))
    else:
        model = transformers.ConvNextModel(transformers.ConvNextConfig(**shape))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@torch.no_grad()
def assert_same_outputs(model: Any, ours: ConvNeXt) -> None:
    generator = torch.Generator().manual_seed(1)
    for height, width in _SIZES:
        x = torch.randn(2, 3, height, width, generator=generator)
        told, outputs = model(x), ours.forward_features(x)
        torch.testing.assert_close(outputs["x_norm_clstoken"], told.pooler_output, atol=1e-5, rtol=1e-5)
        last = told.last_hidden_state
        if last.ndim == 3:  # DINOv3's: the class feature and the places, normed
            torch.testing.assert_close(outputs["x_norm_patchtokens"], last[:, 1:], atol=1e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(outputs["x_prenorm"][:, 1:], last.flatten(2).mT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("dinov3", "DINOv3 ConvNeXt (Hugging Face)"),
        ("plain", "ConvNeXt (Hugging Face)"),
        ("classifier", "ConvNeXt (Hu"),
    ],
)
def test_a_saved_folder_gives_the_same_outputs_at_three_sizes(tmp_path: Path, kind: str, family: str) -> None:
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    ours = dinomill.load(tmp_path)
    assert isinstance(ours, ConvNeXt)
    assert_same_outputs(model.convnext if kind == "classifier" else model, ours)
    described = read_weights(tmp_path, shapes_only=True)
    assert described.config == ours.config
    assert described.family.startswith(family)
    # As a network that gives features, which is how a teacher is read.
    opened = features.open(tmp_path)
    tokens = opened(torch.zeros(1, 3, 224, 224))
    assert (opened.grid, opened.dim, opened.preprocessing.image_size) == (7, 40, 224)
    assert tokens.patches is not None
    assert tokens.patches.shape == (1, 49, 40)


def to_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of timm's own conversion, which reads the official names."""
    named = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^downsample_layers\.0\.", "stem.", name)
        name = re.sub(r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample.", name)
        name = re.sub(r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2.", name)
        name = name.replace("dwconv", "conv_dw").replace("pwconv1", "mlp.fc1").replace("pwconv2", "mlp.fc2")
        named[re.sub(r"^norm\.", "head.norm.", name)] = tensor
    return named


def with_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"head.weight": torch.zeros(10, 24), "head.bias": torch.zeros(10)}


def twice_normed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {f"norms.3.{part}": tensors[f"norm.{part}"].clone() for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("form", "family"),
    [
        (with_head, "ConvNeXt"),
        (twice_normed, "DINOv3 ConvNeXt"),
        (to_timm, "ConvNeXt (timm)"),
        (lambda tensors: {f"teacher.backbone.{name}": tensor for name, tensor in tensors.items()}, "ConvNeXt"),
    ],
)
def test_other_names_are_the_same_network(
    tmp_path: Path, form: Callable[[dict[str, Tensor]], dict[str, Tensor]], family: str
) -> None:
    model = network()
    save_file(form(official_names(model.state_dict())), tmp_path / "weights.safetensors")
    found = read_weights(tmp_path / "weights.safetensors")
    assert (found.family, found.config) == (family, model.config)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found.build()(x), model(x))


def test_what_is_not_computed_here_is_refused(tmp_path: Path) -> None:
    official = official_names(network().state_dict())
    path = tmp_path / "weights.safetensors"
    save_file(official | {"stages.0.0.grn.gamma": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="ConvNeXt V2"):
        dinomill.load(path)
    save_file({name: tensor for name, tensor in official.items() if not name.startswith("stages.1.")}, path)
    with pytest.raises(InputError, match="a part of a ConvNeXt"):
        dinomill.load(path)
    save_file({name: tensor for name, tensor in official.items() if "pwconv1.bias" not in name}, path)
    with pytest.raises(InputError, match="do not fit the model"):
        dinomill.load(path)
    save_file(official, path)
    with pytest.raises(InputError, match="contradict"):
        dinomill.load(path, in_channels=1)
