"""What DINOv3 adds to the network: in training, packed, and never by the fused block that does not compute it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dinomill.models import VisionTransformer, VisionTransformerConfig, draw_drop_path

SHAPE: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "layerscale": 1.0,
    "registers": 2,
    "norm_eps": 1e-5,
}


def fresh(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(VisionTransformerConfig(**{**SHAPE, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


CROPS = [torch.randn(3, 3, 32, 32), torch.randn(4, 3, 16, 24)]


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": "query_value"},
        {"qkv_bias": "none"},
        {"qkv_bias": "query_value", "position": "rope"},
        {"norm_eps": 1e-2},
        {"cls_norm": True},
    ],
)
def test_training_computes_what_evaluation_does(changes: dict[str, Any]) -> None:
    model = fresh(**changes)
    mask = torch.rand(3, 16) < 0.5
    patches = mask.flatten().nonzero()[:, 0]
    with torch.no_grad():
        expected = [model.eval().forward_features(CROPS[0], mask), model.forward_features(CROPS[1])]
    outputs = model.train().forward_packed(CROPS, [mask, None])
    for one, other in zip(expected, outputs, strict=True):
        for name in ("x_norm_clstoken", "x_norm_regtokens", "x_norm_patchtokens"):
            torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-5)
    wanted = model.forward_packed(CROPS, [mask, None], patch_indices=[patches, None])
    torch.testing.assert_close(
        wanted[0]["x_norm_patchtokens"], expected[0]["x_norm_patchtokens"].flatten(0, 1)[patches]
    )
    torch.testing.assert_close(wanted[1]["x_norm_clstoken"], expected[1]["x_norm_clstoken"])


def test_the_eps_is_the_fused_blocks_too() -> None:
    fine, coarse = fresh(norm_eps=1e-6).train(), fresh(norm_eps=1.0).train()
    one, other = (model.forward_packed(CROPS)[0]["x_norm_clstoken"] for model in (fine, coarse))
    assert (one - other).abs().max() > 0.05


def test_keys_without_a_bias_learn_none() -> None:
    model = fresh(qkv_bias="query_value", position="rope").train()
    bias = model.blocks[0].attn.qkv.bias
    before = model.forward_packed(CROPS)[0]["x_norm_clstoken"]
    before.square().sum().backward()
    assert torch.equal(bias.grad[32:64], torch.zeros(32))
    assert bias.grad[:32].abs().min() > 0
    with torch.no_grad():
        bias[32:64] += 10
    assert torch.equal(model.forward_packed(CROPS)[0]["x_norm_clstoken"], before)


def test_local_crops_have_a_norm_of_their_own_in_training_alone() -> None:
    model = fresh(cls_norm=True, local_cls_norm=True)
    assert isinstance(model.local_cls_norm, nn.LayerNorm)
    with torch.no_grad():
        model.local_cls_norm.weight.zero_()
        model.local_cls_norm.bias.fill_(7)
    drop_path = draw_drop_path(model.layout([(3, 32, 32), (4, 16, 24)]), 2, 0.3)
    for patch_indices in (None, [torch.tensor([1, 2]), None]):
        first, second = model.train().forward_packed(CROPS, patch_indices=patch_indices, drop_path=drop_path)
        assert torch.equal(second["x_norm_clstoken"], torch.full((4, 32), 7.0))
        assert not torch.equal(first["x_norm_clstoken"], torch.full((3, 32), 7.0))
        assert not (model.eval().forward_packed(CROPS, patch_indices=patch_indices)[1]["x_norm_clstoken"] == 7).any()
    layers = model.get_intermediate_layers(CROPS[0], 1, return_class_token=True)
    torch.testing.assert_close(layers[0][1], model(CROPS[0]))
