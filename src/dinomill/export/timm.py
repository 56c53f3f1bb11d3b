"""Weights under timm's names: its vision transformer's for DINOv2's shape, its EVA's for DINOv3's.

The note beside the file says the architecture and its arguments, for
``timm.create_model(architecture, checkpoint_path=…, **arguments)``, which gives the class token, or the mean of the
patch tokens where that is the model's pooling. timm resizes positions by size alone and smooths them; of a model that
was trained otherwise the table is resized once, as in huggingface.py.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dinomill.errors import InputError
from dinomill.export.base import Form, Outputs, Run, Subject
from dinomill.export.program import Program
from dinomill.export.tables import deviation, resizes_alike, with_table_for
from dinomill.models import official
from dinomill.models.backbones import Backbone
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.files import read_file
from dinomill.models.known import known_weights
from dinomill.models.made_from import MADE_FROM
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.models.weights import from_tensors


class Timm(Form):
    """timm's names, in a safetensors file."""

    suffix = ".safetensors"

    @property
    def reader(self) -> str:  # type: ignore[override]
        """timm, where it can be imported: it needs a torchvision of the same build as torch."""
        return "dinomill, for want of timm" if installed_timm() is None else "timm"

    def require_fit(self, model: Backbone) -> None:
        """Refuse what timm's classes of these names do not compute."""
        if not isinstance(model, VisionTransformer):
            raise InputError(
                "A ConvNeXt cannot be exported under timm's names here.", action="export it to pth or safetensors"
            )
        config = model.config
        third = config.position == "rope"
        other = [] if config.norm_eps == (1e-5 if third else 1e-6) else [f"norm_eps {config.norm_eps}"]
        other += ["a norm of its own for the class token"] if config.cls_norm or config.local_cls_norm else []
        if config.qkv_bias != ("query_value" if third else "full"):
            other.append(f"biases of {config.qkv_bias.replace('_', ' and ')}")
        if config.layerscale is None:
            other.append("no LayerScale")
        if other:
            raise InputError(
                "timm's names cannot hold this model.",
                found=", ".join(other),
                action="export to safetensors, which carries the configuration",
            )

    def write(self, subject: Subject, path: Path) -> None:
        """Write it."""
        model = _fitted(subject)
        save_file(
            renamed(model.state_dict(), model.config),
            path,
            metadata={"format": "pt", MADE_FROM: subject.told[MADE_FROM]},
        )
        path.chmod(0o644)

    def any_size(self, subject: Subject) -> bool:
        """Where timm resizes the table as the model does."""
        assert isinstance(subject.model, VisionTransformer)
        return resizes_alike(subject.model, offset=0.0, antialias=True)

    def read(self, path: Path, subject: Subject) -> Run:
        """Open it as its users do; by its names with the project's own reader where timm is not installed."""
        timm, model = installed_timm(), subject.model
        if timm is not None:
            told = _architecture(subject)
            network = timm.create_model(told["architecture"], checkpoint_path=str(path), **told["arguments"]).eval()

            def run(images: Tensor) -> Outputs:
                tokens = network.forward_features(images)
                return tokens[:, 0], tokens[:, network.num_prefix_tokens :]

            return run
        found = official.recognise(read_file(path).tensors, str(path))
        assert isinstance(model, VisionTransformer)
        grid = found.tensors["pos_embed"].shape[1] - 1 if "pos_embed" in found.tensors else model.config.grid**2
        update = {"image_size": round(grid**0.5) * model.patch_size} | found.assumed | found.says
        told = {key: value for key, value in update.items() if key in ("image_size", "interpolate_offset")}
        told |= {"interpolate_antialias": True}
        return Program(from_tensors(model.config.model_copy(update=told), found.tensors, where=str(path)))

    def as_written(self, subject: Subject) -> Mapping[str, Any]:
        """The configuration with the table's size."""
        return _fitted(subject).config.model_dump(mode="json")

    def says(self, subject: Subject) -> Mapping[str, Any]:
        """The architecture, and how far it is from the model at other sizes."""
        assert isinstance(subject.model, VisionTransformer)
        off = deviation(subject.model, _fitted(subject), subject.side)
        told = {"timm": _architecture(subject)}
        return told if off is None else {**told, "at_another_size": off._asdict()}


@cache
def installed_timm() -> Any:
    """The module; None where it is not installed, or its torchvision is of another build than torch."""
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError, OSError):
        return None


def _architecture(subject: Subject) -> dict[str, Any]:
    """What timm calls it, where it has a name for this shape, and the arguments that it is created with."""
    assert isinstance(subject.model, VisionTransformer)
    config = subject.model.config
    name = next((known.timm.split(".")[0] for known in known_weights() if known.fits(config)), None)
    third = config.position == "rope"
    # A checkpoint is loaded as it is: the table has to be of the size that it has in the file.
    side = subject.side if third else _fitted(subject).config.image_size
    arguments: dict[str, Any] = {"num_classes": 0, "img_size": side, "dynamic_img_size": True}
    arguments |= _pooling(config)
    if name is None:
        name = _like(config)
        arguments |= {
            "patch_size": config.patch_size,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": _mlp_ratio(config),
        }
        if config.registers != 4 and (third or config.registers):
            arguments["num_reg_tokens" if third else "reg_tokens"] = config.registers
    if third:
        # Its plain names leave biases out, which are zero in the released weights.
        arguments |= {"rope_temperature": config.rope_base, "qkv_bias": True}
    if config.in_channels != 3:
        arguments["in_chans"] = config.in_channels
    return {"architecture": name, "arguments": arguments}


def _like(config: VisionTransformerConfig) -> str:
    """An architecture of the same kind, whose sizes are then given."""
    gated = config.ffn == "swiglu"
    if config.position == "rope":
        return "vit_small_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3"
    return f"vit_{'giant' if gated else 'small'}_patch14_{'reg4_' if config.registers else ''}dinov2"


def _pooling(config: VisionTransformerConfig) -> dict[str, Any]:
    if config.pooling != "mean_patch":
        return {"global_pool": "token"}
    # The norm before the mean, as here.
    return {"global_pool": "avg", **({} if config.position == "rope" else {"fc_norm": False})}


def _mlp_ratio(config: VisionTransformerConfig) -> float:
    """What timm multiplies and cuts to the hidden width; of DINOv2's gated layer to both halves together."""
    if config.ffn != "swiglu":
        return config.mlp_ratio
    hidden = config.hidden_dim * (1 if config.position == "rope" else 2)
    ratio = hidden / config.embed_dim
    return ratio if int(config.embed_dim * ratio) == hidden else (hidden + 0.5) / config.embed_dim


def renamed(tensors: Mapping[str, Tensor], config: VisionTransformerConfig) -> dict[str, Tensor]:
    """Tensors under timm's names; the mask token is left out."""
    third = config.position == "rope"
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in ("mask_token", "pos_embed", "cls_token"):
            continue
        name = name.replace("register_tokens", "reg_token")
        if third and name.endswith(".attn.qkv.bias"):
            query, _, value = tensor.chunk(3)
            found |= {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): value}
            continue
        if third and ".mlp.w12." in name:
            gate, other = tensor.chunk(2)
            found |= {name.replace("w12", "fc1_g"): gate, name.replace("w12", "fc1_x"): other}
            continue
        if third:
            name = re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)
        found[name.replace(".w12.", ".fc1.").replace(".w3.", ".fc2.")] = tensor
    found["cls_token"] = tensors["cls_token"]
    if not third and config.registers:
        # The class token's position is added to the token itself.
        found["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        found["pos_embed"] = tensors["pos_embed"][:, 1:]
    elif not third:
        found["pos_embed"] = tensors["pos_embed"]
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}


def _fitted(subject: Subject) -> VisionTransformer:
    model = subject.model
    assert isinstance(model, VisionTransformer)
    return subject.once("fitted", lambda: with_table_for(model, subject.side, offset=0.0, antialias=True))
