"""The backbone against an independent implementation, from random weights: Dinov2 of ``transformers``."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from dinomill.models.official import infer_config
from dinomill.models.weights import from_tensors

transformers = pytest.importorskip("transformers")

_NAMES = (
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.mask_token", "mask_token"),
    (r"^embeddings\.register_tokens", "register_tokens"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"attention\.o_proj\.", "attn.proj."),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"mlp\.down_proj\.", "mlp.w3."),
    (r"^layernorm\.", "norm."),
)


def official_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    # Three projections of theirs are one of ours, and so are the two of SwiGLU.
    for name in [name for name in renamed if ".attention.q_proj." in name]:
        parts = [renamed.pop(name.replace("q_proj", which)) for which in ("q_proj", "k_proj", "v_proj")]
        renamed[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    for name in [name for name in renamed if ".mlp.gate_proj." in name]:
        parts = [renamed.pop(name.replace("gate_proj", which)) for which in ("gate_proj", "up_proj")]
        renamed[name.replace("gate_proj", "w12")] = torch.cat(parts)
    return renamed


def randomise(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [False, True])
@torch.no_grad()
def test_same_outputs_at_three_sizes(registers: int, swiglu: bool) -> None:
    shape: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 112,
        "patch_size": 14,
        "use_swiglu_ffn": swiglu,
        "attn_implementation": "eager",
    }
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**shape, num_register_tokens=registers)
        theirs = transformers.Dinov2WithRegistersModel(config).eval()
    else:
        theirs = transformers.Dinov2Model(transformers.Dinov2Config(**shape)).eval()
    randomise(theirs)
    tensors = official_names(theirs.state_dict())
    # transformers resizes positions by size alone; with registers it smooths, without it does not.
    ours = from_tensors(
        infer_config(tensors, "transformers", interpolate_offset=0.0, interpolate_antialias=registers > 0),
        tensors,
        "transformers",
    )
    generator = torch.Generator().manual_seed(1)
    for height, width in ((112, 112), (70, 70), (56, 154)):
        x = torch.randn(2, 3, height, width, generator=generator)
        expected = theirs(x).last_hidden_state
        outputs = ours.forward_features(x)
        torch.testing.assert_close(outputs["x_norm_clstoken"], expected[:, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs["x_norm_regtokens"], expected[:, 1 : 1 + registers], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs["x_norm_patchtokens"], expected[:, 1 + registers :], atol=1e-5, rtol=1e-5)
