"""State dicts of Meta's code and of timm: recognised by their names, and brought to the names that are used here.

Those are DINOv2's. What differs:

    DINOv3       storage_tokens for register_tokens, SwiGLU as w1 and w2, rope_embed.periods instead of a table of
                 positions, attn.qkv.bias_mask (zero for the keys' biases), norms of 1e-5
    timm DINOv2  no mask token; with registers, reg_token, and the class token's position added to the class token;
                 SwiGLU as fc1 and fc2; positions smoothed when they are resized
    timm DINOv3  the names of its EVA: gamma_1, attn.q_bias and attn.v_bias, fc1_g and fc1_x; no periods, no mask token
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dinomill.errors import InputError
from dinomill.models.position import rope_periods

DINOV2, DINOV3 = "DINOv2", "DINOv3"
HEAD_WIDTH = 64  # of every released model but DINOv3 7B, whose heads are 128 wide
DINOV3_EPS = 1e-5
_WIDE = {(4096, 40): 128}


@dataclass(frozen=True)
class Recognised:
    """A backbone's tensors under the names used here, and what the family says besides.

    Args:
        family: For people: DINOv2, DINOv3, "DINOv2 (timm)", …
        tensors: Under DINOv2's official names.
        says: Fields of the configuration that follow from the family or from a file beside the weights.
        assumed: Fields that are only the family's usual value: a keyword may say otherwise.
    """

    family: str
    tensors: dict[str, Tensor]
    says: dict[str, Any]
    assumed: dict[str, Any] = field(default_factory=dict)


def recognise(tensors: Mapping[str, Tensor], where: str) -> Recognised:
    """What a backbone with `patch_embed.proj` and `blocks` is, by its names; prefixes are gone already.

    Raises:
        InputError: When something in it has no meaning here.
    """
    if "storage_tokens" in tensors or any(name.startswith("rope_embed.") for name in tensors):
        return _dinov3(dict(tensors), where)
    if "pos_embed" not in tensors and ("blocks.0.gamma_1" in tensors or "reg_token" in tensors):
        return _timm_dinov3(dict(tensors))
    if "mask_token" not in tensors or "reg_token" in tensors:
        return _timm_dinov2(dict(tensors))
    registers = "register_tokens" in tensors
    assumed = {"interpolate_offset": 0.0 if registers else 0.1, "interpolate_antialias": registers}
    return Recognised(DINOV2, dict(tensors), {}, assumed | heads(tensors))


def heads(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of heads that a width usually has; nothing where the width is no multiple of the usual one."""
    width = tensors["patch_embed.proj.weight"].shape[0]
    depth = 1 + max((int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)), default=-1)
    head = _WIDE.get((width, depth), HEAD_WIDTH)
    return {} if width % head else {"num_heads": width // head}


def with_mask_token(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add a mask token of zeros, from which training starts, where the weights have none."""
    width = tensors["patch_embed.proj.weight"]
    tensors.setdefault("mask_token", torch.zeros(1, width.shape[0], device=width.device))
    return tensors


def packed(first: Tensor, second: Tensor, third: Tensor | None = None) -> Tensor:
    """Projections side by side: the order is queries, keys, values, or a gate and what it gates."""
    return torch.cat([first, second] if third is None else [first, second, third])


def rope_says(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What all of DINOv3's forms have in common."""
    bias = tensors.get("blocks.0.attn.qkv.bias")
    return {
        "position": "rope",
        "norm_eps": DINOV3_EPS,
        "qkv_bias": "none" if bias is None else "query_value",
        "cls_norm": "cls_norm.weight" in tensors,
        "local_cls_norm": "local_cls_norm.weight" in tensors,
    }


def _dinov3(tensors: dict[str, Tensor], where: str) -> Recognised:
    periods = tensors.pop("rope_embed.periods", None)
    masks = {name: tensors.pop(name) for name in list(tensors) if name.endswith(".attn.qkv.bias_mask")}
    if "storage_tokens" in tensors:
        tensors["register_tokens"] = tensors.pop("storage_tokens")
    for name in [name for name in tensors if re.search(r"\.mlp\.w1\.", name)]:
        tensors[name.replace(".w1.", ".w12.")] = packed(tensors.pop(name), tensors.pop(name.replace(".w1.", ".w2.")))
    says = rope_says(tensors)
    if not masks and says["qkv_bias"] != "none":
        says["qkv_bias"] = "full"
    _clear_key_biases(tensors, masks, where)
    assumed = heads(tensors)
    if periods is not None:
        says |= _rope_of(periods, where)
        # A quarter of a head's width turns with each period: the file says how wide the heads are.
        says["num_heads"] = tensors["patch_embed.proj.weight"].shape[0] // (4 * periods.shape[0])
    return Recognised(DINOV3, with_mask_token(tensors), says, assumed)


def _clear_key_biases(tensors: dict[str, Tensor], masks: Mapping[str, Tensor], where: str) -> None:
    for name, mask in masks.items():
        bias = tensors[name.removesuffix("_mask")]
        if mask.is_meta or bias.is_meta:
            continue
        third = mask.shape[0] // 3
        expected = torch.ones_like(mask)
        expected[third : 2 * third] = 0
        if not torch.equal(mask, expected):
            raise InputError(f"{where} masks other biases than the keys'.", found=name, expected="DINOv3's mask")
        tensors[name.removesuffix("_mask")] = torch.where(mask.bool(), bias, torch.zeros_like(bias))


def _rope_of(periods: Tensor, where: str) -> dict[str, Any]:
    """The base and the rounding of periods ``[head_dim / 4]``."""
    stored, quarter = periods.detach().float(), periods.shape[0]
    # The last one is base ** ((n - 1) / n).
    base = float(stored[-1]) ** (quarter / (quarter - 1)) if quarter > 1 else 100.0
    for candidate in (100.0, round(base), base):
        exact = rope_periods(4 * quarter, candidate)
        if torch.allclose(stored, exact, rtol=1e-6):
            return {"rope_base": float(candidate), "rope_periods": "exact"}
        if torch.equal(stored, exact.bfloat16().float()):
            return {"rope_base": float(candidate), "rope_periods": "bfloat16"}
    raise InputError(
        f"{where} has rotary positions that are not computed here.",
        found="rope_embed.periods " + ", ".join(f"{value:.3g}" for value in stored[:4].tolist()),
        expected="periods from 1 on, in equal ratios up to a base, as DINOv3's released models have them",
    )


def _timm_dinov2(tensors: dict[str, Tensor]) -> Recognised:
    if "reg_token" in tensors:
        tensors["register_tokens"] = tensors.pop("reg_token")
        table = tensors.get("pos_embed")
        if table is not None:
            # The class token's position was added to the token: a position of zeros takes its place.
            tensors["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    first, second = tensors.get("blocks.0.mlp.fc1.weight"), tensors.get("blocks.0.mlp.fc2.weight")
    if first is not None and second is not None and first.shape[0] == 2 * second.shape[1]:
        for name in [name for name in tensors if re.search(r"\.mlp\.fc[12]\.", name)]:
            tensors[name.replace(".fc1.", ".w12.").replace(".fc2.", ".w3.")] = tensors.pop(name)
    family = f"{DINOV2} (timm)" if "blocks.0.ls1.gamma" in tensors else "ViT without LayerScale (timm, DINO)"
    assumed = {"interpolate_offset": 0.0, "interpolate_antialias": True} | heads(tensors)
    return Recognised(family, with_mask_token(tensors), {}, assumed)


def _timm_dinov3(tensors: dict[str, Tensor]) -> Recognised:
    if "reg_token" in tensors:
        tensors["register_tokens"] = tensors.pop("reg_token")
    for name in [name for name in tensors if re.search(r"\.gamma_[12]$", name)]:
        tensors[re.sub(r"gamma_([12])$", r"ls\1.gamma", name)] = tensors.pop(name)
    for name in [name for name in tensors if name.endswith(".attn.q_bias")]:
        query, value = tensors.pop(name), tensors.pop(name.replace("q_bias", "v_bias"))
        tensors[name.replace("q_bias", "qkv.bias")] = packed(query, torch.zeros_like(query), value)
    for name in [name for name in tensors if ".mlp.fc1_g." in name]:
        other = tensors.pop(name.replace("fc1_g", "fc1_x"))
        tensors[name.replace("fc1_g", "w12")] = packed(tensors.pop(name), other)
        second = name.replace("fc1_g", "fc2")
        tensors[second.replace("fc2", "w3")] = tensors.pop(second)
    return Recognised(f"{DINOV3} (timm)", with_mask_token(tensors), rope_says(tensors), heads(tensors))
