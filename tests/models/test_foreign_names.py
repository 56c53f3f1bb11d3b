"""Meta's DINOv3 and timm's names: converted wholly, and the same numbers; every stack of prefixes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dinomill
from dinomill.errors import InputError
from dinomill.models import VisionTransformer, VisionTransformerConfig, variant
from dinomill.models.loading import read_weights
from dinomill.models.position import rope_periods

DINOV3: dict[str, Any] = {
    "position": "rope",
    "qkv_bias": "query_value",
    "norm_eps": 1e-5,
    "registers": 4,
    "layerscale": 1.0,
    "patch_size": 16,
    "image_size": 224,
    "embed_dim": 128,
    "depth": 2,
    "num_heads": 2,
}
_KEYS = slice(128, 256)


def fresh(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(VisionTransformerConfig(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        if model.config.qkv_bias == "query_value":
            for block in model.blocks:
                block.attn.qkv.bias[_KEYS] = 0
    return model.eval()


def official_dinov3(model: VisionTransformer, *, rounded: bool = False) -> dict[str, Tensor]:
    """The names of Meta's code, written from its modules: what ``from_tensors`` must undo."""
    named = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("register_tokens", "storage_tokens")
        if ".mlp.w12." in name:
            first, second = tensor.chunk(2)
            named[name.replace("w12", "w1")], named[name.replace("w12", "w2")] = first.clone(), second.clone()
        else:
            named[name] = tensor.clone()
        if name.endswith("attn.qkv.bias") and model.config.qkv_bias == "query_value":
            mask = torch.ones_like(tensor)
            mask[_KEYS] = 0
            named[f"{name}_mask"] = mask
            named[name] = tensor + (1 - mask)  # a masked bias may hold anything
    periods = rope_periods(model.config.head_dim, model.config.rope_base)
    named["rope_embed.periods"] = periods.bfloat16() if rounded else periods
    return named


def timm_dinov3(model: VisionTransformer) -> dict[str, Tensor]:
    """The names of timm's EVA, as its filter for checkpoints makes them from the official ones."""
    named = {}
    for name, tensor in official_dinov3(model).items():
        if name.endswith((".periods", ".bias_mask", "mask_token")) or name.startswith("local_cls_norm"):
            continue
        if name.endswith("qkv.bias"):
            query, _, value = tensor.chunk(3)
            named[name.replace("qkv.bias", "q_bias")], named[name.replace("qkv.bias", "v_bias")] = query, value
            continue
        name = re.sub(r"ls([12])\.gamma", r"gamma_\1", name).replace("storage_tokens", "reg_token")
        name = name.replace("mlp.w1.", "mlp.fc1_g.").replace("mlp.w2.", "mlp.fc1_x.").replace("mlp.w3.", "mlp.fc2.")
        named[name] = tensor.contiguous()
    return named


def timm_dinov2(model: VisionTransformer) -> dict[str, Tensor]:
    """The names of timm's VisionTransformer, as its filter for checkpoints makes them from the official ones."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "mask_token"}
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    return {name.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2."): t for name, t in state.items()}


@torch.no_grad()
def assert_same(one: VisionTransformer, other: VisionTransformer, atol: float = 1e-6) -> None:
    side = one.patch_size
    for rows, columns in ((4, 4), (8, 8), (3, 7)):
        x = torch.randn(2, 3, rows * side, columns * side)
        expected, actual = one.forward_features(x), other.forward_features(x)
        for name in ("x_norm_clstoken", "x_norm_regtokens", "x_norm_patchtokens"):
            torch.testing.assert_close(expected[name], actual[name], atol=atol, rtol=1e-5)


def write(tensors: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ffn": "swiglu", "mlp_ratio": 6.0},
        {"qkv_bias": "none", "ffn": "swiglu", "mlp_ratio": 3.0, "local_cls_norm": True},
        {"cls_norm": True, "registers": 0},
    ],
)
def test_official_dinov3(tmp_path: Path, changes: dict[str, Any], suffix: str) -> None:
    model = fresh(**{**DINOV3, **changes})
    path = write(official_dinov3(model), tmp_path / f"vit{suffix}")
    loaded = dinomill.load(path)
    assert loaded.config == model.config
    assert_same(model, loaded)
    found = read_weights(path, shapes_only=True)
    assert (found.family, found.config) == ("DINOv3", model.config)
    assert all(tensor.is_meta for name, tensor in found.tensors.items() if name.startswith("blocks."))


def test_rounded_periods_are_kept(tmp_path: Path) -> None:
    exact = fresh(**DINOV3)
    loaded = dinomill.load(write(official_dinov3(exact, rounded=True), tmp_path / "vit.pth"))
    assert loaded.config.rope_periods == "bfloat16"
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        difference = (exact(x) - loaded(x)).abs().max()
    assert 1e-6 < difference < 0.1
    assert read_weights(tmp_path / "vit.pth", shapes_only=True).config == loaded.config


def test_heads_follow_from_the_periods(tmp_path: Path) -> None:
    model = fresh(**{**DINOV3, "num_heads": 4})
    path = write(official_dinov3(model), tmp_path / "vit.pth")
    assert dinomill.load(path).num_heads == 4
    with pytest.raises(InputError, match="contradicts num_heads=2"):
        dinomill.load(path, num_heads=2)


def test_unknown_periods_and_masks_are_refused(tmp_path: Path) -> None:
    tensors = official_dinov3(fresh(**DINOV3))
    other = tensors | {"rope_embed.periods": torch.linspace(1, 50, 16)}
    with pytest.raises(InputError, match="rotary positions that are not computed"):
        dinomill.load(write(other, tmp_path / "vit.pth"))
    name = "blocks.1.attn.qkv.bias_mask"
    with pytest.raises(InputError, match="masks other biases"):
        dinomill.load(write(tensors | {name: torch.ones(384)}, tmp_path / "vit.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("changes", [{}, {"ffn": "swiglu", "mlp_ratio": 6.0}, {"qkv_bias": "none"}])
def test_timm_dinov3(tmp_path: Path, changes: dict[str, Any], suffix: str) -> None:
    model = fresh(**{**DINOV3, **changes})
    path = write(timm_dinov3(model), tmp_path / f"vit{suffix}")
    loaded = dinomill.load(path)
    assert loaded.config == model.config
    assert read_weights(path, shapes_only=True).family == "DINOv3 (timm)"
    assert_same(model, loaded)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
def test_timm_dinov2(tmp_path: Path, ffn: str, registers: int) -> None:
    # timm smooths the table when it resizes it.
    resized = {"interpolate_offset": 0.0, "interpolate_antialias": True}
    model = fresh(
        **{"image_size": 56, "embed_dim": 128, "depth": 2, "num_heads": 2, "layerscale": 1.0, **resized}
        | {"ffn": ffn, "registers": registers}
    )
    path = write(timm_dinov2(model), tmp_path / "vit.safetensors")
    loaded = dinomill.load(path)
    assert loaded.config == model.config
    assert read_weights(path, shapes_only=True).family == "DINOv2 (timm)"
    assert_same(model, loaded)
    assert torch.equal(loaded.mask_token, torch.zeros(1, 128))


def nested(state: dict[str, Tensor], form: str) -> dict[str, Any]:
    """A checkpoint as some program writes it, with another network's weights beside it where it does so."""
    wrong = {name: tensor + 1 for name, tensor in state.items()}
    if form == "compiled blocks":
        return {re.sub(r"blocks\.(\d+)\.", r"blocks.\1._orig_mod.", name): t for name, t in state.items()}
    if form == "dinov3 training":
        return {
            "model": {f"model_ema.backbone.{name}": tensor for name, tensor in state.items()}
            | {f"gram.backbone.{name}": tensor for name, tensor in wrong.items()}
            | {f"student.backbone.{name}": tensor for name, tensor in wrong.items()},
            "iteration": 9,
        }
    if form == "deep":
        return {"state_dict": {"teacher": {"backbone": dict(state)}, "student": {"backbone": wrong}}, "args": {"lr": 1}}
    return {form + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "form",
    [
        *(
            "module.",
            "_orig_mod.",
            "backbone.",
            "module._orig_mod.backbone.",
            "teacher.backbone.module.",
            "encoder.vit.",
        ),
        *("compiled blocks", "dinov3 training", "deep"),
    ],
)
@pytest.mark.parametrize("third", [False, True])
def test_any_stack_of_prefixes(tmp_path: Path, form: str, third: bool) -> None:
    model = fresh(**DINOV3) if third else fresh(image_size=28, embed_dim=128, depth=2, num_heads=2, layerscale=1.0)
    state = official_dinov3(model) if third else dict(model.state_dict())
    torch.save(nested(state, form), tmp_path / "vit.pth")
    assert_same(model, dinomill.load(tmp_path / "vit.pth"))


def test_two_backbones_without_a_name_that_tells_are_refused(tmp_path: Path) -> None:
    state = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=1)).state_dict()
    torch.save({f"{side}.{name}": t for side in ("left", "right") for name, t in state.items()}, tmp_path / "vit.pth")
    with pytest.raises(InputError, match="several backbones"):
        dinomill.load(tmp_path / "vit.pth")


def test_the_heads_of_a_released_shape_are_known(tmp_path: Path) -> None:
    model = VisionTransformer(variant("small", patch_size=14, image_size=28))
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    assert dinomill.load(tmp_path / "vit.pth").num_heads == 6
    with pytest.raises(InputError, match="weights with num_heads 6"):
        dinomill.load(tmp_path / "vit.pth", num_heads=2)
    with pytest.raises(InputError, match="weights with embed_dim 384"):
        dinomill.load(tmp_path / "vit.pth", embed_dim=768)
