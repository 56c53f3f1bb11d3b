"""State dicts of ConvNeXts made elsewhere: recognised by their names, and brought to the names that are used here.

official       downsample_layers.I.J, stages.I.J; DINOv3's hold the norm twice (norms.3), ImageNet's a classifier
Hugging Face   DINOv3ConvNextModel: stages.I.downsample_layers, stages.I.layers; ConvNextModel: embeddings,
               encoder.stages.I.downsampling_layer, layer_scale_parameter; its final norm's epsilon of 1e-12 is taken
               as the official 1e-6
timm           stem, stages.I.downsample, stages.I.blocks with conv_dw and mlp, head.norm
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dinomill.errors import InputError
from dinomill.models.convnext_config import ConvNeXtConfig

OFFICIAL, DINOV3, HUGGING_FACE, TIMM = "ConvNeXt", "DINOv3 ConvNeXt", "(Hugging Face)", "(timm)"
MODEL_TYPES = ("convnext", "dinov3_convnext")

# A name of each form that no other network has; under any prefix.
ANCHORS = (
    "stages.0.0.dwconv.weight",  # official
    "stages.0.layers.0.depthwise_conv.weight",  # DINOv3 of transformers
    "stages.0.blocks.0.conv_dw.weight",  # timm
)
_CONVNEXT_MODEL = "encoder.stages.0.layers.0.dwconv.weight"  # shares its anchor with transformers' DINOv3 ViT

_Rules = tuple[tuple[str, str], ...]
_OFFICIAL_RULES: _Rules = (
    (r"^downsample_layers\.0\.0\.", "patch_embed.conv."),
    (r"^downsample_layers\.0\.1\.", "patch_embed.norm."),
)
_DINOV3_RULES: _Rules = (
    (r"^stages\.0\.downsample_layers\.0\.", "patch_embed.conv."),
    (r"^stages\.0\.downsample_layers\.1\.", "patch_embed.norm."),
    (r"\.layers\.(\d+)\.", r".\1."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv([12])\.", r".pwconv\1."),
    (r"^layer_norm\.", "norm."),
    (r"\.layer_norm\.", ".norm."),
)
_CONVNEXT_RULES: _Rules = (
    (r"^embeddings\.patch_embeddings\.", "patch_embed.conv."),
    (r"^embeddings\.layernorm\.", "patch_embed.norm."),
    (r"^encoder\.", ""),
    (r"\.layers\.(\d+)\.", r".\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm\.", ".norm."),
)
_TIMM_RULES: _Rules = (
    (r"^stem\.0\.", "patch_embed.conv."),
    (r"^stem\.1\.", "patch_embed.norm."),
    (r"^(stages\.\d+)\.blocks\.", r"\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"^head\.norm\.", "norm."),
)
# Of every form: the norm and the convolution that halve a map, before stage I here I - 1.
_HALVING = re.compile(
    r"^(?:downsample_layers\.(\d+)|stages\.(\d+)\.(?:downsample_layers|downsampling_layer|downsample))\.([01])\."
)
_CLASSIFIER = re.compile(r"^(head\.(fc\.)?|classifier\.)(weight|bias)$")


@dataclass(frozen=True)
class RecognisedConvNeXt:
    """A ConvNeXt's tensors under the names used here, its family for people, and its shape."""

    family: str
    tensors: dict[str, Tensor]
    config: ConvNeXtConfig


def is_convnext(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names without their prefix are a ConvNeXt's."""
    return any(anchor in tensors for anchor in ANCHORS) or _CONVNEXT_MODEL in tensors


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> RecognisedConvNeXt:
    """What a ConvNeXt's state dict holds.

    Args:
        tensors: Without prefixes.
        config: A Hugging Face ``config.json`` beside it.
        where: The file, for messages.

    Raises:
        InputError: When it is a variant that is not computed here.
    """
    if any(".grn." in name for name in tensors):
        raise InputError(
            f"{where} is a ConvNeXt V2, whose response normalisation is not computed here.",
            expected="a ConvNeXt of 2022, or DINOv3's",
        )
    activation = (config or {}).get("hidden_act", "gelu")
    if activation != "gelu":
        raise InputError(
            f"{where} has a layer that is not computed here.", found=f"hidden_act {activation!r}", expected="gelu"
        )
    family, rules = _form(tensors)
    found = {_renamed(name, rules): tensor for name, tensor in tensors.items() if not _CLASSIFIER.match(name)}
    found.pop("norms.3.weight", None), found.pop("norms.3.bias", None)  # the final norm again
    return RecognisedConvNeXt(family, found, _config(found, config, where))


def official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names used here, brought to the official code's."""
    order = {"patch_embed": ("conv", "norm"), "halvings": ("norm", "conv")}
    named = {}
    for name, tensor in tensors.items():
        first, *rest = name.split(".")
        if first in order:
            stage = 0 if first == "patch_embed" else int(rest.pop(0)) + 1
            name = ".".join(["downsample_layers", str(stage), str(order[first].index(rest[0])), *rest[1:]])
        named[name] = tensor
    return named


def _form(tensors: Mapping[str, Tensor]) -> tuple[str, _Rules]:
    if _CONVNEXT_MODEL in tensors:
        return f"{OFFICIAL} {HUGGING_FACE}", _CONVNEXT_RULES
    if ANCHORS[1] in tensors:
        return f"{DINOV3} {HUGGING_FACE}", _DINOV3_RULES
    if ANCHORS[2] in tensors:
        return f"{OFFICIAL} {TIMM}", _TIMM_RULES
    return DINOV3 if "norms.3.weight" in tensors else OFFICIAL, _OFFICIAL_RULES


def _renamed(name: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    halving = _HALVING.match(name)
    if halving is None:
        return name
    stage = int(halving[1] or halving[2]) - 1
    return f"halvings.{stage}.{('norm', 'conv')[int(halving[3])]}.{name[halving.end() :]}"


def _config(tensors: Mapping[str, Tensor], told: Mapping[str, Any] | None, where: str) -> ConvNeXtConfig:
    conv = tensors.get("patch_embed.conv.weight")
    if conv is None or conv.ndim != 4:
        raise _incomplete(where, "no first convolution")
    depths: dict[int, int] = {}
    for name in tensors:
        if block := re.match(r"stages\.(\d+)\.(\d+)\.", name):
            stage = int(block[1])
            depths[stage] = max(depths.get(stage, 0), int(block[2]) + 1)
    stages = sorted(depths)
    last = [tensors.get(f"stages.{stage}.0.norm.weight") for stage in stages]
    if not stages or stages != list(range(len(stages))) or any(norm is None for norm in last):
        raise _incomplete(where, f"stages {stages}")
    values = {
        "kind": "convnext",
        "in_channels": conv.shape[1],
        "stem": conv.shape[-1],
        "dims": [norm.shape[0] for norm in last if norm is not None],
        "depths": [depths[stage] for stage in stages],
        "layerscale": 1.0 if "stages.0.0.gamma" in tensors else None,
        # transformers' ConvNextModel has a final norm of 1e-12 beside 1e-6 everywhere else; the official code has not.
        "norm_eps": (told or {}).get("layer_norm_eps", 1e-6)
        if (told or {}).get("model_type") == MODEL_TYPES[1]
        else 1e-6,
    }
    return ConvNeXtConfig.parse(values, where=where)


def _incomplete(where: str, found: str) -> InputError:
    return InputError(
        f"{where} is a part of a ConvNeXt's state dict.", found=found, action="give the whole of its weights"
    )
