"""A folder of transformers: Dinov2Model, Dinov2WithRegistersModel or DINOv3ViTModel.

<folder>/config.json                what AutoModel.from_pretrained builds; `dinomill`: what it was made from
<folder>/model.safetensors          weights under its names
<folder>/preprocessor_config.json   what AutoImageProcessor.from_pretrained builds
<folder>/README.md                  licence and origin, as a model card's head says them

transformers resizes learned positions by size alone, and smooths them where there are registers. Of a model that was
trained otherwise (released DINOv2 without registers) the table is resized once, to the size that the model is used
with: there the features are the same, and elsewhere as close as in the released conversions; card and note say it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dinomill.errors import InputError
from dinomill.export.base import Form, Outputs, Run, Subject
from dinomill.export.program import Program
from dinomill.export.tables import Deviation, deviation, resizes_alike, with_table_for
from dinomill.features.licence import LICENCE, ORIGIN
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models.backbones import Backbone
from dinomill.models.beside import note_of
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.huggingface import CONFIG_NAME, PROCESSOR_NAME
from dinomill.models.loading import load
from dinomill.models.made_from import MADE_FROM
from dinomill.models.vision_transformer import VisionTransformer

_WEIGHTS = "model.safetensors"
_BICUBIC = 3  # Pillow's number
_WORDS = {"q": "query", "k": "key", "v": "value"}
_DINOV2 = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.([qkv])\.", lambda m: f".attention.attention.{_WORDS[m[1]]}."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.w12\.", ".mlp.weights_in."),
    (r"\.mlp\.w3\.", ".mlp.weights_out."),
    (r"^norm\.", "layernorm."),
)
_DINOV3 = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^blocks\.(\d+)\.", r"layer.\1."),
    (r"\.attn\.([qkv])\.", r".attention.\1_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.fc1\.", ".mlp.up_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    (r"\.mlp\.w3\.", ".mlp.down_proj."),
)


class HuggingFace(Form):
    """What ``AutoModel.from_pretrained`` opens."""

    suffix = ""

    @property
    def reader(self) -> str:  # type: ignore[override]
        """transformers, where it is installed."""
        return "transformers" if _has_transformers() else "dinomill, for want of transformers"

    def require_fit(self, model: Backbone) -> None:
        """Refuse what transformers has no class for."""
        if not isinstance(model, VisionTransformer):
            raise InputError(
                "A ConvNeXt cannot be exported as a Hugging Face folder here.",
                action="export it to safetensors, pth, pt2, onnx or openvino",
            )
        config = model.config
        other = ["a norm of its own for the class token"] if config.cls_norm else []
        if config.position == "learned" and config.qkv_bias == "query_value":
            other.append("learned positions and keys without biases")
        if config.position == "rope" and not config.registers:
            other.append("rotary positions without registers")
        if other:
            raise InputError(
                "No class of transformers computes this model.",
                found=" and ".join(other),
                action="export it to safetensors, pt2, onnx or openvino",
            )

    def write(self, subject: Subject, path: Path) -> None:
        """Write the folder."""
        model = _fitted(subject)
        path.mkdir()
        third = model.config.position == "rope"
        tensors = renamed(model.state_dict(), model.config, _DINOV3 if third else _DINOV2)
        save_file(tensors, path / _WEIGHTS, metadata={"format": "pt", MADE_FROM: subject.told[MADE_FROM]})
        (path / _WEIGHTS).chmod(0o644)
        config = _config_v3(model.config, subject.side) if third else _config_v2(model.config)
        _write_json(path / CONFIG_NAME, config | {"dinomill": {MADE_FROM: json.loads(subject.told[MADE_FROM])}})
        settings = PreprocessingConfig.model_validate_json(subject.told[SECTION])
        _write_json(path / PROCESSOR_NAME, _processor(settings))
        (path / "README.md").write_text(_card(subject), encoding="utf-8")

    def any_size(self, subject: Subject) -> bool:
        """Where transformers resizes the table as the model does."""
        assert isinstance(subject.model, VisionTransformer)
        return resizes_alike(subject.model, offset=0.0, antialias=bool(subject.model.config.registers))

    def read(self, path: Path, subject: Subject) -> Run:
        """Open it as its users do; with the project's own reader where transformers is not installed."""
        if not _has_transformers():
            return Program(load(path))
        from transformers import AutoModel

        assert isinstance(subject.model, VisionTransformer)
        network = AutoModel.from_pretrained(path, local_files_only=True).eval()
        prefix = 1 + subject.model.config.registers

        def run(images: Tensor) -> Outputs:
            tokens = network(pixel_values=images).last_hidden_state
            return tokens[:, 0], tokens[:, prefix:]

        return run

    def note(self, path: Path) -> Path:
        """Beside the weights in the folder."""
        return note_of(path / _WEIGHTS)

    def as_written(self, subject: Subject) -> Mapping[str, Any]:
        """The configuration with the table's size."""
        return _fitted(subject).config.model_dump(mode="json")

    def says(self, subject: Subject) -> Mapping[str, Any]:
        """How far it is from the model at other sizes."""
        off = _off(subject)
        return {} if off is None else {"at_another_size": off._asdict()}


def renamed(
    tensors: Mapping[str, Tensor], config: VisionTransformerConfig, names: tuple[tuple[str, Any], ...]
) -> dict[str, Tensor]:
    """Tensors under transformers' names: packed projections apart, and a gain of 1 where there is none."""
    third = config.position == "rope"
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("local_cls_norm."):
            continue
        if ".attn.qkv." in name:
            for part, values in zip("qkv", tensor.chunk(3), strict=True):
                if not (part == "k" and name.endswith("bias") and config.qkv_bias == "query_value"):
                    apart[name.replace(".qkv.", f".{part}.")] = values
        elif third and ".mlp.w12." in name:
            gate, value = tensor.chunk(2)
            apart |= {name.replace("w12", "gate_proj"): gate, name.replace("w12", "up_proj"): value}
        else:
            apart[name] = tensor
    apart["mask_token"] = apart["mask_token"].reshape(1, 1, -1) if third else apart["mask_token"]
    if config.layerscale is None:
        gains = {f"blocks.{block}.ls{n}.gamma" for block in range(config.depth) for n in (1, 2)}
        apart |= {name: torch.ones(config.embed_dim) for name in gains}
    found = {}
    for name, tensor in apart.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor.detach().cpu().contiguous().clone()
    return found


def _fitted(subject: Subject) -> VisionTransformer:
    model = subject.model
    assert isinstance(model, VisionTransformer)
    antialias = bool(model.config.registers)
    return subject.once("fitted", lambda: with_table_for(model, subject.side, offset=0.0, antialias=antialias))


def _off(subject: Subject) -> Deviation | None:
    model = subject.model
    assert isinstance(model, VisionTransformer)
    return subject.once("off", lambda: deviation(model, _fitted(subject), subject.side))


def _config_v2(config: VisionTransformerConfig) -> dict[str, Any]:
    registers = {"num_register_tokens": config.registers} if config.registers else {}
    return {
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        **_common(config),
        **registers,
        "qkv_bias": config.qkv_bias == "full",
        "mlp_ratio": int(config.mlp_ratio) if config.mlp_ratio == int(config.mlp_ratio) else config.mlp_ratio,
        "use_swiglu_ffn": config.ffn == "swiglu",
        "hidden_act": "gelu",
        "image_size": config.image_size,
    }


def _config_v3(config: VisionTransformerConfig, side: int) -> dict[str, Any]:
    bias = config.qkv_bias
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        **_common(config),
        "num_register_tokens": config.registers,
        "intermediate_size": config.hidden_dim,
        "query_bias": bias != "none",
        "key_bias": bias == "full",
        "value_bias": bias != "none",
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": config.ffn == "swiglu",
        "hidden_act": "silu" if config.ffn == "swiglu" else "gelu",
        "rope_theta": config.rope_base,
        "pos_embed_rescale": config.rope_rescale,
        "image_size": side,
    }


def _common(config: VisionTransformerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "layer_norm_eps": config.norm_eps,
        "layerscale_value": 1.0 if config.layerscale is None else config.layerscale,
        "drop_path_rate": 0.0,
        "dtype": "float32",
    }


def _processor(settings: PreprocessingConfig) -> dict[str, Any]:
    side = settings.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": settings.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": settings.resize},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
    }


def _card(subject: Subject) -> str:
    head = f"---\nlicense: {json.dumps(subject.told[LICENCE])}\nlibrary_name: transformers\n---\n"
    origin = subject.told.get(ORIGIN)
    text = "An image embedding model, exported by dinomill: `AutoModel.from_pretrained` opens this folder.\n"
    said = f"\nThe weights were {origin}.\n" if origin else ""
    off = _off(subject)
    if off is None:
        return f"{head}\n{text}{said}"
    return (
        f"{head}\n{text}{said}\nPositions are those of {subject.side} pixels, where the features are the original's; "
        f"at other sizes transformers resizes them in a way of its own: {off}.\n"
    )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _has_transformers() -> bool:
    return importlib.util.find_spec("transformers") is not None
