"""Weights in the form of transformers: Dinov2Model, Dinov2WithRegistersModel and DINOv3ViTModel.

A folder holds ``config.json``, the weights (``model.safetensors`` or ``pytorch_model.bin``, or their shards beside an
index) and perhaps ``preprocessor_config.json``. Names differ from version to version; all are understood here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dinomill.errors import InputError
from dinomill.models.official import DINOV2, DINOV3, DINOV3_EPS, Recognised, heads, packed, rope_says, with_mask_token

CONFIG_NAME = "config.json"
PROCESSOR_NAME = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
MODEL_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit")

_NAMES = (
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(encoder\.|model\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)


def is_huggingface(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names without their prefix are those of transformers."""
    return any(name.startswith("embeddings.patch_embeddings.") for name in tensors)


def read_config(folder: Path) -> dict[str, Any] | None:
    """The ``config.json`` of a Hugging Face folder; None when there is none, or it is of something else."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return None
    return config if isinstance(config, dict) and "model_type" in config else None


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Recognised:
    """The tensors under official names, and what ``config.json`` says.

    Raises:
        InputError: When it is another network, or one of a variant that is not computed here.
    """
    if config is not None:
        _check_type(config, where)
    if "embeddings.patch_embeddings.projection.weight" in tensors and not any("layer_scale" in n for n in tensors):
        raise InputError(
            f"{where} is a Hugging Face state dict of {(config or {}).get('model_type', 'ViT or BEiT')}.",
            expected=f"one of {', '.join(MODEL_TYPES)}",
            action="give the weights of a DINOv2 or DINOv3 vision transformer: `dinomill weights` lists them",
        )
    ours = _renamed(tensors)
    ours["mask_token"] = with_mask_token(ours)["mask_token"].reshape(1, -1)
    if "register_tokens" in ours and ours["register_tokens"].shape[1] == 0:
        del ours["register_tokens"]
    third = "pos_embed" not in ours
    family = f"{DINOV3 if third else DINOV2} (Hugging Face)"
    # transformers resizes the table by size alone; with registers it smooths.
    table = {"interpolate_offset": 0.0, "interpolate_antialias": "register_tokens" in ours}
    says = rope_says(ours) | {"qkv_bias": _bias_kind(tensors)} if third else table
    if config is None:
        return Recognised(family, ours, says, heads(ours))
    return Recognised(family, ours, says | _of_config(config, ours, third, where))


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, tensor in tensors.items():
        if name.startswith("rope_embeddings."):
            continue  # follows from the configuration
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    for name in [name for name in named if name.endswith(".attn.q.weight")]:
        parts = [named.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        named[name.replace(".q.", ".qkv.")] = packed(*parts)
    for name in [name for name in named if name.endswith(".attn.q.bias")]:
        query, value = named.pop(name), named.pop(name.replace(".q.", ".v."))
        key = named.pop(name.replace(".q.", ".k."), query.new_zeros(query.shape))
        named[name.replace(".q.", ".qkv.")] = packed(query, key, value)
    gated = any(".mlp.gate_proj." in name for name in named)
    for name in [name for name in named if ".mlp.gate_proj." in name]:
        other = named.pop(name.replace("gate_proj", "up_proj"))
        named[name.replace("gate_proj", "w12")] = packed(named.pop(name), other)
    for name in [name for name in named if re.search(r"\.mlp\.(up|down)_proj\.", name)]:
        plain = name.replace("up_proj", "fc1").replace("down_proj", "w3" if gated else "fc2")
        named[plain] = named.pop(name)
    return named


def _bias_kind(tensors: Mapping[str, Tensor]) -> str:
    found = {part for part in ("q", "k", "v") if any(re.search(rf"\.{part}_proj\.bias$", name) for name in tensors)}
    return {0: "none", 3: "full"}.get(len(found), "query_value")


def _check_type(config: Mapping[str, Any], where: str) -> None:
    kind = config.get("model_type")
    inner = config.get("backbone_config")
    if isinstance(inner, Mapping) and kind not in MODEL_TYPES:
        kind = inner.get("model_type")
    if kind not in MODEL_TYPES:
        raise InputError(
            f"{where} is a Hugging Face folder of {kind!r}.",
            expected=f"one of {', '.join(MODEL_TYPES)}",
            action="give the weights of a DINOv2 or DINOv3 vision transformer: `dinomill weights` lists them",
        )


def _of_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor], third: bool, where: str) -> dict[str, Any]:
    """What ``config.json`` says and tensors cannot; where it contradicts them, that is refused."""
    inner = config.get("backbone_config")
    if config.get("model_type") not in MODEL_TYPES and isinstance(inner, Mapping):
        config = inner
    width, _, side, _ = tensors["patch_embed.proj.weight"].shape
    for key, actual in (("hidden_size", width), ("patch_size", side)):
        told = config.get(key, actual)
        if told != actual and told != [actual, actual]:
            raise InputError(f"{where}: {CONFIG_NAME} contradicts the weights.", found=f"{key} {told}, not {actual}")
    gated = "blocks.0.mlp.w12.weight" in tensors
    activation = config.get("hidden_act", "silu" if gated else "gelu")
    # Dinov2's gated layer is SwiGLU whatever the key says; DINOv3's takes the key's function.
    wanted = ("silu", "swish") if gated and third else ("gelu", "silu") if gated else ("gelu",)
    if activation not in wanted:
        raise InputError(
            f"{where} has a feed-forward layer that is not computed here.",
            found=f"hidden_act {activation!r}" + (" in a gated layer" if gated else ""),
            expected=" or ".join(wanted),
        )
    says: dict[str, Any] = {"norm_eps": config.get("layer_norm_eps", DINOV3_EPS if third else 1e-6)}
    says["num_heads"] = config.get("num_attention_heads", heads(tensors).get("num_heads"))
    if third:
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        says["rope_base"] = float(config.get("rope_theta") or rope.get("rope_theta") or 100.0)
        says["rope_rescale"] = config.get("pos_embed_rescale") or 1.0
        size = config.get("image_size", 224)
        size = size[0] if isinstance(size, list) else size
        says["image_size"] = max(round(size / side), 1) * side
    return {key: value for key, value in says.items() if value is not None}
