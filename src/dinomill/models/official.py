"""State dicts of the official code: which configuration they imply, and their names in and out.

Users own such files in three forms: a plain backbone (``blocks.0.attn.qkv.weight`` …), the same with blocks in chunks
(``blocks.1.13.attn…``, as sharded training writes them), and a training checkpoint in which the backbone hides under
``teacher.backbone.`` or ``model.teacher.backbone.`` beside heads and the student.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dinomill.errors import InputError
from dinomill.models.config import VisionTransformerConfig

_PREFIXES = ("teacher.backbone.", "backbone.", "student.backbone.", "module.")
_NESTS = ("model", "teacher", "state_dict", "student")
# What a file holds beside the backbone: ignored when a backbone was found under a prefix.
_CHUNKED = re.compile(r"^blocks\.(\d+)\.(\d+)\.")
_ANCHOR = "patch_embed.proj.weight"


def find_backbone(checkpoint: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The backbone's tensors of a state dict or training checkpoint, under plain names.

    The teacher is preferred to the student: it is the average that one keeps.

    Raises:
        InputError: When there is no backbone inside.
    """
    for names in (checkpoint, *(checkpoint[key] for key in _NESTS if isinstance(checkpoint.get(key), Mapping))):
        for prefix in ("", *_PREFIXES):
            if prefix + _ANCHOR in names:
                found = {
                    str(name)[len(prefix) :]: tensor
                    for name, tensor in names.items()
                    if str(name).startswith(prefix) and isinstance(tensor, Tensor)
                }
                return _without_chunks(found)
    inner = next((checkpoint[key] for key in _NESTS if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    if inner is not checkpoint and _holds_more(inner):
        return find_backbone(inner, where)
    raise InputError(
        f"{where} holds no DINOv2 backbone.",
        found="keys " + ", ".join(map(str, list(inner)[:4])) + (" …" if len(inner) > 4 else "") if inner else "no keys",
        expected=f"a key {_ANCHOR!r}, at the top or under one of {', '.join(_PREFIXES)}",
        action="give the file of an official backbone, or a training checkpoint that contains one",
    )


def _holds_more(names: Mapping[str, Any]) -> bool:
    return any(isinstance(names.get(key), Mapping) for key in _NESTS)


def _without_chunks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # In chunked files the second number already counts through the whole depth.
    return {_CHUNKED.sub(r"blocks.\2.", name): tensor for name, tensor in tensors.items()}


def add_chunks(tensors: Mapping[str, Tensor], chunks: int) -> dict[str, Tensor]:
    """Rename ``blocks.N`` to ``blocks.C.N``, the depth split evenly into chunks, as sharded official training does."""
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    size = max(depth // chunks, 1)
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) // size}.{match[1]}.", name): tensor
        for name, tensor in tensors.items()
    }


def infer_config(
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    patch_size: int | None = None,
    num_heads: int | None = None,
    interpolate_offset: float | None = None,
    interpolate_antialias: bool | None = None,
) -> VisionTransformerConfig:
    """The configuration that a backbone's tensors imply.

    Args:
        tensors: Plain names, as given by ``find_backbone``.
        where: The file, for messages.
        patch_size: Only checked: the patch embedding says it.
        num_heads: Not in a state dict; by default heads are 64 wide, as in every released model.
        interpolate_offset: Not in a state dict; by default 0.1 without registers and 0 with, as released.
        interpolate_antialias: Not in a state dict; by default on with registers, as released.

    Raises:
        InputError: When a tensor is missing or has an impossible shape, or a keyword contradicts the tensors.
    """
    projection = _get(tensors, _ANCHOR, where)
    embed_dim, in_channels, side, _ = projection.shape
    if patch_size is not None and patch_size != side:
        raise InputError(
            f"{where} has patches of {side} pixels.",
            found=f"patch_size={patch_size}",
            action="leave the argument out, or give another file",
        )
    if num_heads is None:
        if embed_dim % 64:
            raise InputError(
                f"{where} does not say how many attention heads it has.",
                found=f"a width of {embed_dim}, which is no multiple of the usual 64 a head",
                action="give num_heads=…",
            )
        num_heads = embed_dim // 64
    depth = 1 + max((int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)), default=-1)
    if depth == 0:
        _get(tensors, "blocks.0.norm1.weight", where)
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    return VisionTransformerConfig.parse(
        {
            "image_size": _native_grid(tensors, where) * side,
            "patch_size": side,
            "in_channels": in_channels,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": _mlp_ratio(tensors, embed_dim, swiglu, where),
            "ffn": "swiglu" if swiglu else "mlp",
            "registers": registers,
            "layerscale": 1.0 if "blocks.0.ls1.gamma" in tensors else None,
            "interpolate_offset": (0.0 if registers else 0.1) if interpolate_offset is None else interpolate_offset,
            "interpolate_antialias": registers > 0 if interpolate_antialias is None else interpolate_antialias,
        },
        where=where,
    )


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
    # The hidden width of a SwiGLU is rounded; 4 is what every released model was rounded from.
    for ratio in (4.0, hidden * 1.5 / embed_dim):
        probe = VisionTransformerConfig(embed_dim=embed_dim, num_heads=1, mlp_ratio=ratio, ffn="swiglu")
        if probe.hidden_dim == hidden:
            return ratio
    raise InputError(f"{where} has a SwiGLU of hidden width {hidden}, which is not a multiple of 8.")


def _get(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors:
        raise InputError(
            f"{where} has no {name!r}.",
            found=f"{len(tensors)} other tensors",
            action="give a complete DINOv2 backbone",
        )
    return tensors[name]
