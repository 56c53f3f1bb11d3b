"""Parameter name → learning-rate and weight-decay multipliers, then groups fused by equal multipliers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

# Chunked checkpoints nest `blocks.<chunk>.<block>`; the block's number is the last one either way.
_BLOCK = re.compile(r"(?:^|\.)blocks\.(?:\d+\.)*?(\d+)\.(?=\D)")
_FIRST_LAYER = ("pos_embed", "patch_embed", "mask_token", "cls_token", "register_tokens")
# Wrappers put their own segments into names; the multipliers must not depend on them.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "module.")


@dataclass(frozen=True)
class Multipliers:
    """What a parameter's learning rate and weight decay are multiplied by.

    Args:
        learning_rate: Layerwise decay times the patch embedding's factor.
        weight_decay: 0 for biases, norms and LayerScale gains, else 1.
        last_layer: Whether the parameter is a head's prototypes, which stay frozen at the start.
    """

    learning_rate: float
    weight_decay: float
    last_layer: bool


def backbone_multipliers(
    name: str, *, depth: int, layerwise_decay: float = 1.0, patch_embed: float = 0.2
) -> Multipliers:
    """Multipliers of a vision transformer's parameter.

    Args:
        name: The parameter's name in the backbone, block names flat or chunked.
        depth: The backbone's number of blocks.
        layerwise_decay: Decay a layer, counted down from the final norm; tokens and patches have `decay^(depth+1)`.
        patch_embed: Additional factor for the patch embedding.
    """
    name = plain_name(name)
    layer = depth + 1
    block = _BLOCK.search(name)
    if block is not None:
        layer = int(block.group(1)) + 1
    elif name.startswith(_FIRST_LAYER):
        layer = 0
    factor = layerwise_decay ** (depth + 1 - layer)
    if "patch_embed" in name:
        factor *= patch_embed
    return Multipliers(factor, _weight_decay(name), last_layer=False)


def head_multipliers(name: str) -> Multipliers:
    """Multipliers of a projection head's parameter: none but the frozen last layer and the decay-free biases."""
    name = plain_name(name)
    return Multipliers(1.0, _weight_decay(name), last_layer="last_layer" in name)


def plain_name(name: str) -> str:
    """A parameter's name without what compilers and parallel wrappers add to it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _weight_decay(name: str) -> float:
    return 0.0 if name.endswith(".bias") or "norm" in name or "gamma" in name else 1.0


def fuse(parameters: Iterable[tuple[nn.Parameter, Multipliers]]) -> list[dict[str, Any]]:
    """Optimiser groups: one for each distinct set of multipliers, in order of first appearance.

    Returns:
        Groups with the keys ``params``, ``lr_multiplier``, ``wd_multiplier`` and ``last_layer``.
    """
    fused: dict[Multipliers, list[nn.Parameter]] = defaultdict(list)
    for parameter, multipliers in parameters:
        fused[multipliers].append(parameter)
    return [
        {
            "params": group,
            "lr_multiplier": key.learning_rate,
            "wd_multiplier": key.weight_decay,
            "last_layer": key.last_layer,
        }
        for key, group in fused.items()
    ]


def student_multipliers(
    student: nn.Module, *, depth: int, layerwise_decay: float, patch_embed: float
) -> Iterator[tuple[nn.Parameter, Multipliers]]:
    """Every trainable parameter of a student {backbone, dino_head, ibot_head} with its multipliers."""
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        part, _, rest = plain_name(name).partition(".")
        if part == "backbone":
            yield (
                parameter,
                backbone_multipliers(rest, depth=depth, layerwise_decay=layerwise_decay, patch_embed=patch_embed),
            )
        else:
            yield parameter, head_multipliers(rest)
