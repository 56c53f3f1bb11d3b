"""Parameter name → learning-rate and weight-decay multipliers, then groups fused by equal multipliers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from dinomill.models.in_training import layer_of as transformer_layer
from dinomill.models.student import StudentBackbone

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
    name: str,
    *,
    depth: int,
    layerwise_decay: float = 1.0,
    patch_embed: float = 0.2,
    layer_of: Callable[[str], int] | None = None,
) -> Multipliers:
    """Multipliers of a backbone's parameter.

    Args:
        name: The parameter's name in the backbone, block names flat or chunked.
        depth: The backbone's number of blocks.
        layerwise_decay: Decay a layer, counted down from the final norm; tokens and patches have `decay^(depth+1)`.
        patch_embed: Additional factor for the patch embedding.
        layer_of: Layer of a plain name, 0 to ``depth + 1``; None: a vision transformer's.
    """
    name = plain_name(name)
    layer = transformer_layer(name, depth) if layer_of is None else layer_of(name)
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
    student: nn.Module, backbone: StudentBackbone, *, layerwise_decay: float, patch_embed: float
) -> Iterator[tuple[nn.Parameter, Multipliers]]:
    """Every trainable parameter of a student (a backbone, and what is laid on it) with its multipliers."""
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        part, _, rest = plain_name(name).partition(".")
        if part == "backbone":
            yield (
                parameter,
                backbone_multipliers(
                    rest,
                    depth=backbone.n_blocks,
                    layerwise_decay=layerwise_decay,
                    patch_embed=patch_embed,
                    layer_of=backbone.layer_of,
                ),
            )
        else:
            yield parameter, head_multipliers(rest)
