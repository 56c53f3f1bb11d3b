"""Where in a checkpoint the backbone is: under which stack of prefixes, and which one when there are several."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from dinomill.errors import InputError
from dinomill.models import convnext_names
from dinomill.models.foreign import name_of_state_dict

# Every backbone that can be converted has one of these, under whatever prefix.
ANCHORS = (
    "patch_embed.proj.weight",  # official, timm
    "embeddings.patch_embeddings.projection.weight",  # Dinov2 of transformers
    "embeddings.patch_embeddings.weight",  # DINOv3 of transformers, and its ConvNext
    *convnext_names.ANCHORS,
)
# What compilers and parallel wrappers put into names, at any place.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
# transformers' DINOv3 ConvNeXt has its final norm beside `model`, which holds the stages.
_INNER = re.compile(r"(?<![^.])model\.(?=stages\.\d+\.(?:downsample_layers|layers)\.)")
_CHUNKED = re.compile(r"^blocks\.(\d+)\.(\d+)\.")


def find_backbone(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The backbone's tensors of a flat state dict or training checkpoint, without prefixes and chunks.

    The teacher is preferred, then an average, then what has no such name, then the student.

    Raises:
        InputError: When there is no backbone inside, or more than one and no telling which.
    """
    plain = {_INNER.sub("", _WRAPPERS.sub("", name)): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        plain = dict(tensors)  # the wrappers' names tell two networks apart
    prefixes = {name.removesuffix(anchor) for anchor in ANCHORS for name in plain if _ends(name, anchor)}
    if not prefixes:
        raise InputError(
            f"{where} holds no backbone of the DINOv2, DINOv3 or ConvNeXt kind.",
            found=name_of_state_dict(plain),
            expected=f"a name {ANCHORS[0]!r}, or Hugging Face's {ANCHORS[1]!r} or {ANCHORS[2]!r}, under any prefix",
            action="give the weights of a DINOv2 or DINOv3 vision transformer or a ConvNeXt: `dinomill weights` lists "
            "them",
        )
    best, *others = sorted(prefixes, key=lambda prefix: (_rank(prefix), len(prefix), prefix))
    if others and _rank(others[0]) == _rank(best):
        raise InputError(
            f"{where} holds several backbones, and nothing says which one is meant.",
            found=", ".join(repr(prefix or "(no prefix)") for prefix in (best, *others[:3])),
            action="save the state dict of the one that you mean alone",
        )
    found = {name.removeprefix(best): tensor for name, tensor in plain.items() if name.startswith(best)}
    # In chunked files the second number already counts through the whole depth.
    return {_CHUNKED.sub(r"blocks.\2.", name): tensor for name, tensor in found.items()}


def _ends(name: str, anchor: str) -> bool:
    return name == anchor or name.endswith(f".{anchor}")


def _rank(prefix: str) -> int:
    parts = prefix.split(".")
    if any("gram" in part or "optim" in part for part in parts):
        return 4
    if "teacher" in parts:
        return 0
    if any("ema" in part.split("_") for part in parts):
        return 1
    return 3 if "student" in parts else 2
