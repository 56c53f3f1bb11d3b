"""Every family against an independent implementation: the classes of ``transformers``, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import dinomill
from dinomill.errors import InputError
from dinomill.models import VisionTransformer
from dinomill.models.loading import read_weights

transformers = pytest.importorskip("transformers")

_SIZES = {14: ((112, 112), (70, 70), (56, 154)), 16: ((112, 112), (80, 80), (64, 176))}
_KINDS = ["dinov2", "dinov2_swiglu", "dinov2_registers", "dinov2_registers_swiglu", "dinov3", "dinov3_swiglu"]


def randomise(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def theirs(kind: str, **changes: Any) -> Any:
    shape: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 112,
        "patch_size": 16 if kind.startswith("dinov3") else 14,
        "attn_implementation": "eager",
        **changes,
    }
    swiglu = kind.endswith("swiglu")
    if kind.startswith("dinov3"):
        gated = {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 512} if swiglu else {}
        config = transformers.DINOv3ViTConfig(**{"num_register_tokens": 4, "intermediate_size": 256, **gated, **shape})
        model = transformers.DINOv3ViTModel(config)
    elif "registers" in kind:
        config = transformers.Dinov2WithRegistersConfig(**shape, use_swiglu_ffn=swiglu)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**shape, use_swiglu_ffn=swiglu))
    randomise(model)
    return model.eval()


@torch.no_grad()
def assert_same_outputs(model: Any, ours: VisionTransformer) -> None:
    generator = torch.Generator().manual_seed(1)
    registers = ours.num_register_tokens
    for height, width in _SIZES[ours.patch_size]:
        x = torch.randn(2, 3, height, width, generator=generator)
        expected: Tensor = model(x).last_hidden_state
        outputs = ours.forward_features(x)
        torch.testing.assert_close(outputs["x_norm_clstoken"], expected[:, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs["x_norm_regtokens"], expected[:, 1 : 1 + registers], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs["x_norm_patchtokens"], expected[:, 1 + registers :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_saved_folder_gives_the_same_outputs_at_three_sizes(tmp_path: Path, kind: str) -> None:
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    ours = dinomill.load(tmp_path)
    assert_same_outputs(model, ours)
    assert read_weights(tmp_path, shapes_only=True).config == ours.config
    assert "Hugging Face" in read_weights(tmp_path, shapes_only=True).family


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_registers_swiglu", "dinov3_swiglu"])
@pytest.mark.parametrize("form", ["file", "bin", "shards", "memory", "wrapped", "alone"])
def test_every_form_of_the_same_weights(tmp_path: Path, kind: str, form: str) -> None:
    model = theirs(kind)
    model.save_pretrained(tmp_path, **({"max_shard_size": "300KB"} if form == "shards" else {}))
    weights, source = tmp_path / "model.safetensors", tmp_path
    if form == "shards":
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    else:
        tensors = load_file(weights)
    if form == "file":
        source = weights
    elif form in ("bin", "memory", "wrapped"):
        weights.unlink()
        if form == "memory":  # the names of this version's modules, not those that it saves
            tensors = dict(model.state_dict())
        if form == "wrapped":
            tensors = {f"dinov2.{name}": tensor for name, tensor in tensors.items()} | {
                "classifier.weight": torch.ones(3, 256)
            }
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    elif form == "alone":
        (tmp_path / "config.json").unlink()
        source = weights
    assert_same_outputs(model, dinomill.load(source))


def test_what_the_configuration_says_is_used(tmp_path: Path) -> None:
    model = theirs("dinov3", num_attention_heads=4, layer_norm_eps=1e-3, rope_theta=50.0, num_register_tokens=0)
    model.save_pretrained(tmp_path)
    ours = dinomill.load(tmp_path)
    assert (ours.num_heads, ours.config.norm_eps, ours.config.rope_base, ours.config.registers) == (4, 1e-3, 50.0, 0)
    assert_same_outputs(model, ours)
    with pytest.raises(InputError, match="contradicts num_heads=2"):
        dinomill.load(tmp_path, num_heads=2)
    assert dinomill.load(tmp_path, num_heads=4).num_heads == 4


def test_biases_as_configured(tmp_path: Path) -> None:
    for number, changes in enumerate(({"key_bias": True}, {"query_bias": False, "value_bias": False})):
        model = theirs("dinov3", **changes)
        model.save_pretrained(tmp_path / str(number))
        assert_same_outputs(model, dinomill.load(tmp_path / str(number)))
    model = theirs("dinov2", qkv_bias=False)
    model.save_pretrained(tmp_path / "none")
    assert_same_outputs(model, dinomill.load(tmp_path / "none"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"use_gated_mlp": True, "intermediate_size": 512}, "hidden_act 'gelu' in a gated layer"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"mlp_bias": False}, r"mlp\.fc1\.bias"),
    ],
)
def test_variants_that_are_not_computed_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    theirs("dinov3", **changes).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=complaint):
        dinomill.load(tmp_path)


def test_other_networks_are_named(tmp_path: Path) -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64}
    transformers.ViTModel(transformers.ViTConfig(**shape, image_size=32)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a Hugging Face folder of 'vit'"):
        dinomill.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="a Hugging Face state dict of ViT"):
        dinomill.load(tmp_path)


def test_a_configuration_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    theirs("dinov2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(InputError, match="contradicts the weights"):
        dinomill.load(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    theirs("dinov2").save_pretrained(tmp_path, max_shard_size="300KB")
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(InputError, match=r"shards that .* names are missing"):
        dinomill.load(tmp_path)
