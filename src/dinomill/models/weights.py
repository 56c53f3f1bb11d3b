"""Backbones on disk: weights as safetensors beside a readable configuration; nothing that executes when loaded.

<folder>/config.json         {"format", "model": its configuration, "preprocessing", …}: sections that callers add
<folder>/model.safetensors   the state dict; a vision transformer's with the official names
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dinomill.errors import InputError
from dinomill.models.backbones import Backbone, new_backbone
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.convnext import ConvNeXt
from dinomill.models.convnext_config import ConvNeXtConfig
from dinomill.models.files import read_safetensors as read_safetensors  # the stages read heads with it
from dinomill.models.kinds import ModelConfig, parse_model
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.storage.atomic import atomic_file, write_text

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = "dinomill-backbone-1"
MODEL = "model"  # section of config.json, and key in the header of a single exported file


def save_backbone(folder: Path, model: Backbone, extra: Mapping[str, Any] | None = None) -> Path:
    """Write a backbone; each file is complete or absent, and the configuration is written last.

    Args:
        folder: Created if missing.
        model: Its parameters are saved in the precision that they have.
        extra: Sections to add to ``config.json``, such as ``{"preprocessing": …}``.

    Returns:
        The path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).unlink(missing_ok=True)
    with atomic_file(folder / WEIGHTS_NAME) as temporary:
        write_safetensors(temporary, model)
    config = {"format": FORMAT, MODEL: model.config.model_dump(mode="json"), **(extra or {})}
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return folder / WEIGHTS_NAME


def write_safetensors(path: Path, model: Backbone, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's weights, with its configuration in the header, so that the one file suffices to load it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={MODEL: model.config.model_dump_json(), **(metadata or {})})
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def add_sections(folder: Path, sections: Mapping[str, Any]) -> None:
    """Add sections to the ``config.json`` of an exported backbone, or replace them."""
    config = read_config(folder) | dict(sections)
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed ``config.json`` of an exported backbone.

    Raises:
        InputError: When it is missing or not ours.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(
            f"There is no {path}.",
            expected=f"a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, as pretraining and distillation write it",
            action="give such a folder, or the .pth file of an official backbone",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON.", found=str(error)) from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(
            f"{path} does not describe a dinomill backbone.",
            found=f"format {config.get('format')!r}" if isinstance(config, dict) else type(config).__name__,
            expected=f"format {FORMAT!r}",
            action="give the folder of an exported backbone",
        )
    return config


def is_export(folder: Path) -> bool:
    """Whether a folder's ``config.json`` is that of an exported backbone, of this or another version."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        return False
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(config, dict) and "format" in config and "model_type" not in config


def load_backbone(folder: Path) -> Backbone:
    """Read a backbone that ``save_backbone`` wrote; it is in evaluation mode.

    Raises:
        InputError: When a file is missing, broken, or does not fit the other.
    """
    config = parse_model(read_config(folder).get(MODEL, {}), where=str(folder / CONFIG_NAME))
    return from_tensors(config, read_safetensors(folder / WEIGHTS_NAME), where=str(folder / WEIGHTS_NAME))


@overload
def from_tensors(config: VisionTransformerConfig, tensors: Mapping[str, Tensor], where: str) -> VisionTransformer: ...
@overload
def from_tensors(config: ConvNeXtConfig, tensors: Mapping[str, Tensor], where: str) -> ConvNeXt: ...
def from_tensors(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> Backbone:
    """A model of this configuration with these weights, in evaluation mode and fp32.

    Raises:
        InputError: When names or shapes do not fit, or a value is no number; the first few are named.
    """
    model = check_shape(config, tensors, where)
    # One such value makes every embedding one, and a training diverge at its first step. 10 ms for a ViT-S.
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise InputError(
            f"The weights in {where} hold values that are no numbers (NaN or infinity).",
            found=f"in {len(broken)} of {len(tensors)} tensors: {', '.join(broken[:3])}",
            action="take another checkpoint: the training that made this one had diverged, or the file was damaged",
        )
    # Copied, because the tensors may be a mapped file's, which somebody may write to.
    own = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(own, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def check_shape(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> Backbone:
    """Check tensors against a configuration; returns a model without data, on the meta device.

    Raises:
        InputError: Names what does not fit.
    """
    # On a real device, a giant model would be initialised only to be overwritten.
    with torch.device("meta"):
        model = new_backbone(config)
    check_fit(model, tensors, where)
    return model


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise an InputError that names what does not fit between a model and tensors for it."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"no {name!r}" for name in wanted if name not in tensors]
    problems += [f"unknown {name!r}" for name in tensors if name not in wanted]
    problems += [
        f"{name!r} is {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise InputError(
            f"The weights in {where} do not fit the model.",
            found="; ".join(problems[:4]) + more,
            expected=f"the {len(wanted)} tensors of such a model",
            action="give a complete backbone, or the keywords (num_heads, …) that it was trained with",
        )
