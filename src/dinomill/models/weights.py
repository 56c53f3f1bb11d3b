"""Backbones on disk: weights as safetensors beside a readable configuration; nothing that executes when loaded.

<folder>/config.json         {"format", "model": VisionTransformerConfig, "preprocessing", …}: sections that callers add
<folder>/model.safetensors   the state dict, with the official names
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dinomill.errors import InputError
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.official import find_backbone, infer_config
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.storage.atomic import atomic_file, write_text

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = "dinomill-backbone-1"
MODEL = "model"  # section of config.json, and key in the header of a single exported file


def save_backbone(folder: Path, model: VisionTransformer, extra: Mapping[str, Any] | None = None) -> Path:
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


def write_safetensors(path: Path, model: VisionTransformer, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's weights, with its configuration in the header, so that the one file suffices to load it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={MODEL: model.config.model_dump_json(), **(metadata or {})})
    path.chmod(0o644)  # safetensors makes files that only their owner can read


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


def load_backbone(folder: Path) -> VisionTransformer:
    """Read a backbone that ``save_backbone`` wrote; it is in evaluation mode.

    Raises:
        InputError: When a file is missing, broken, or does not fit the other.
    """
    config = VisionTransformerConfig.parse(read_config(folder).get(MODEL, {}), where=str(folder / CONFIG_NAME))
    return from_tensors(config, read_safetensors(folder / WEIGHTS_NAME), where=str(folder / WEIGHTS_NAME))


def load_official(path: Path, **keywords: Any) -> VisionTransformer:
    """Read a state dict or training checkpoint of the official code, or a single exported ``.safetensors`` file.

    Args:
        path: The file. When its header holds a configuration, nothing has to be inferred.
        **keywords: As in ``infer_config``.

    Raises:
        InputError: When the file is not such a checkpoint; a tensor that is missing, left over or of a wrong shape is
            named.
    """
    if path.suffix == ".safetensors":
        checkpoint: Mapping[str, Any] = read_safetensors(path)
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(MODEL)
        if described is not None and not keywords:
            config = VisionTransformerConfig.parse(json.loads(described), where=str(path))
            return from_tensors(config, checkpoint, where=str(path))
    else:
        checkpoint = read_pickle_safely(path)
    tensors = find_backbone(checkpoint, str(path))
    return from_tensors(infer_config(tensors, str(path), **keywords), tensors, where=str(path))


def from_tensors(config: VisionTransformerConfig, tensors: Mapping[str, Tensor], where: str) -> VisionTransformer:
    """A model of this configuration with these weights, in evaluation mode and fp32.

    Raises:
        InputError: When names or shapes do not fit; the first few are named.
    """
    # Without this, a giant model would be initialised only to be overwritten.
    with torch.device("meta"):
        model = VisionTransformer(config)
    check_fit(model, tensors, where)
    # Copied, because the tensors may be a mapped file's, which somebody may write to.
    own = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(own, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


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
            expected=f"the {len(wanted)} tensors of a DINOv2-style backbone",
            action="give a complete backbone, or the keywords (num_heads, …) that it was trained with",
        )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        InputError: When the file is missing, cut off or of another kind.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}.", action="give the file of a backbone's weights")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a complete safetensors file.", found=str(error), action="copy or export it again"
        ) from None


def read_pickle_safely(path: Path) -> Mapping[str, Any]:
    """A ``.pth`` file's mapping, read so that nothing in it can execute.

    Raises:
        InputError: When the file is missing, broken, holds anything but tensors and plain containers, or is no mapping.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}.", action="give the file of a backbone's weights")
    try:
        with warnings.catch_warnings():
            # A plain pickle is warned of before it is refused.
            warnings.simplefilter("ignore", UserWarning)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} holds more than tensors, or is not a PyTorch file, and is not loaded.",
            found=reason,
            expected="a state dict: names and tensors; objects could run code when loaded",
            action="save the model's state_dict() alone, with torch.save, and give that file",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a PyTorch file.", found=str(error).splitlines()[0] if str(error) else None
        ) from None
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"{path} holds no state dict.", found=type(checkpoint).__name__, expected="names and tensors")
    return checkpoint


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
