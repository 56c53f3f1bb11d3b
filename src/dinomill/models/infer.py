"""The configuration that a backbone's tensors imply; a keyword that contradicts them is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dinomill.errors import InputError
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.known import released_shape
from dinomill.models.official import Recognised

_ROPE_GRID = 14  # rotary positions have no native grid; released models are evaluated at 224 = 14 patches of 16


def infer_config(found: Recognised, where: str, **keywords: Any) -> VisionTransformerConfig:
    """The configuration of recognised weights.

    Args:
        found: Tensors under official names, and what their family says.
        where: The file, for messages.
        **keywords: Fields of the configuration. What the weights say is only checked; what they leave open (heads
            of unusual widths, how positions of unknown files are resized) is taken.

    Raises:
        InputError: When a tensor is missing or has an impossible shape, or a keyword contradicts the weights.
    """
    says = _of_shapes(found.tensors, where) | found.says
    assumed = {key: value for key, value in found.assumed.items() if key not in says}
    if released_shape(says["embed_dim"], says["depth"]) and "num_heads" in assumed:
        says["num_heads"] = assumed.pop("num_heads")
    for key, value in keywords.items():
        if value is None:
            continue
        if key in says and says[key] != value:
            told = f"patches of {says[key]} pixels" if key == "patch_size" else f"{key} {says[key]!r}"
            raise InputError(
                f"{where} contradicts {key}={value!r}.",
                found=f"weights with {told}",
                action="leave the argument out, or give another file",
            )
        assumed[key] = value
    values = assumed | says
    if "num_heads" not in values:
        raise InputError(
            f"{where} does not say how many attention heads it has.",
            found=f"a width of {says['embed_dim']}, which is no multiple of the usual 64 a head",
            action="give num_heads=…",
        )
    return VisionTransformerConfig.parse(values, where=where)


def _of_shapes(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    embed_dim, in_channels, side, _ = _get(tensors, "patch_embed.proj.weight", where).shape
    depth = 1 + max((int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)), default=-1)
    if depth == 0:
        _get(tensors, "blocks.0.norm1.weight", where)
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    learned = "pos_embed" in tensors
    return {
        "image_size": (_native_grid(tensors, where) if learned else _ROPE_GRID) * side,
        "patch_size": side,
        "in_channels": in_channels,
        "embed_dim": embed_dim,
        "depth": depth,
        "mlp_ratio": _mlp_ratio(tensors, embed_dim, swiglu, where),
        "ffn": "swiglu" if swiglu else "mlp",
        "registers": tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0,
        "layerscale": 1.0 if "blocks.0.ls1.gamma" in tensors else None,
        "qkv_bias": "full" if "blocks.0.attn.qkv.bias" in tensors else "none",
    }


def _native_grid(tensors: Mapping[str, Tensor], where: str) -> int:
    places = _get(tensors, "pos_embed", where).shape[1] - 1
    grid = math.isqrt(places)
    if grid * grid != places:
        raise InputError(f"{where} has a position table that is not square.", found=f"{places} patch positions")
    return grid


def _mlp_ratio(tensors: Mapping[str, Tensor], embed_dim: int, swiglu: bool, where: str) -> float:
    if not swiglu:
        return float(_get(tensors, "blocks.0.mlp.fc1.weight", where).shape[0] / embed_dim)
    hidden = _get(tensors, "blocks.0.mlp.w3.weight", where).shape[1]
    # The hidden width of a SwiGLU is rounded; these are what every released model was rounded from.
    for ratio in (4.0, 6.0, 3.0, hidden * 1.5 / embed_dim, (hidden + 0.01) * 1.5 / embed_dim):
        probe = VisionTransformerConfig(embed_dim=embed_dim, num_heads=1, mlp_ratio=ratio, ffn="swiglu")
        if probe.hidden_dim == hidden:
            return ratio
    raise InputError(f"{where} has a SwiGLU of hidden width {hidden}, which is not a multiple of 8.")


def _get(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors:
        raise InputError(
            f"{where} has no {name!r}.",
            found=f"{len(tensors)} other tensors",
            action="give a complete DINOv2 or DINOv3 backbone",
        )
    return tensors[name]
