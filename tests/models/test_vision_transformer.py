"""The backbone against stored outputs of the official code, and its packed pass against separate ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinomill.models import Sequences, VisionTransformer
from dinomill.models.official import infer_config
from dinomill.models.stochastic_depth import add_back, subset, take
from dinomill.models.weights import from_tensors

Reference = Mapping[str, np.ndarray[Any, Any]]
NAMES = ("vit_mlp_reg0_train", "vit_swiglufused_reg4_hubreg")
SIZES = ("70", "56", "98", "56x98")


@pytest.fixture(params=NAMES)
def reference(request: pytest.FixtureRequest, numeric_reference: Callable[[str], Reference]) -> Reference:
    return numeric_reference(request.param)


@pytest.fixture
def model(reference: Reference) -> VisionTransformer:
    tensors = {k[3:]: torch.from_numpy(reference[k]) for k in reference if k.startswith("sd/")}
    return from_tensors(infer_config(tensors, "reference", num_heads=3), tensors, "reference")


def close(actual: Tensor, expected: np.ndarray[Any, Any]) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(expected), atol=1e-5, rtol=1e-6)


def crop_loss(outputs: list[dict[str, Tensor]]) -> Tensor:
    names = ("x_norm_clstoken", "x_norm_patchtokens")
    return torch.stack([(part[name] ** 3).sum() for part in outputs for name in names]).sum()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_every_stored_output(model: VisionTransformer, reference: Reference, size: str) -> None:
    x = torch.from_numpy(reference[f"x/{size}"])
    close(model.embed(x), reference[f"tokens/{size}"])
    outputs = model.forward_features(x)
    stored = [key for key in reference if key.startswith(f"out/{size}/")]
    assert len(stored) == 4
    for key in stored:
        close(outputs[key.rpartition("/")[2]], reference[key])
    close(model(x), reference[f"out/{size}/x_norm_clstoken"])
    layers = model.get_intermediate_layers(x, 3, reshape=True, return_class_token=True)
    for index, (patch, cls) in enumerate(layers):
        close(patch, reference[f"inter/{size}/{index}/patch"])
        close(cls, reference[f"inter/{size}/{index}/cls"])
    raw = model.get_intermediate_layers(x, [0, 2], norm=False)
    for index, patch in zip((0, 2), raw, strict=True):
        torch.testing.assert_close(
            patch, torch.from_numpy(reference[f"inter_nonorm/{size}/{index}"]), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_masked_patches(model: VisionTransformer, reference: Reference) -> None:
    masks = torch.from_numpy(reference["mask/70"])
    outputs = model.forward_features(torch.from_numpy(reference["x/70"]), masks)
    for name in ("x_norm_clstoken", "x_norm_patchtokens"):
        close(outputs[name], reference[f"out_masked/70/{name}"])
    assert outputs["masks"] is masks


@pytest.mark.parametrize("checkpoint", [False, True])
def test_packed_pass_equals_separate_passes(model: VisionTransformer, reference: Reference, checkpoint: bool) -> None:
    crops = [torch.from_numpy(reference[f"x/{size}"]) for size in ("70", "56", "56x98")]
    masks = [torch.from_numpy(reference["mask/70"]), None, None]
    separate = [model.forward_features(crop, mask) for crop, mask in zip(crops, masks, strict=True)]
    crop_loss(separate).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    packed = model.forward_packed(crops, masks, checkpoint=checkpoint)
    crop_loss(packed).backward()
    for alone, together in zip(separate, packed, strict=True):
        for name, tokens in together.items():
            torch.testing.assert_close(tokens, alone[name], atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=2e-3, rtol=1e-4)


def test_stochastic_depth_by_subset(numeric_reference: Callable[[str], Reference]) -> None:
    reference = numeric_reference("droppath_subset")
    x = torch.from_numpy(reference["x"])
    batch, length, dim = x.shape
    chosen = subset([Sequences(batch, length)], [torch.from_numpy(reference["kept"])])
    assert sum(part.samples for part in chosen.layout) == max(int(batch * (1 - float(reference["ratio"]))), 1)
    flat = x.flatten(0, 1)
    close(add_back(flat, 2 * torch.tanh(take(flat, chosen)), chosen).view(batch, length, dim), reference["out"])
