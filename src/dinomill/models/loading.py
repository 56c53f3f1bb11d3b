"""One door for every kind of backbone: an export of ours, an official file, a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinomill.errors import InputError
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.models.weights import CONFIG_NAME, WEIGHTS_NAME, load_backbone, load_official


def load(path_or_uri: str | Path, **keywords: Any) -> VisionTransformer:
    """Load a backbone, in evaluation mode, in fp32, on the CPU.

    Args:
        path_or_uri: A folder written by pretraining or distillation (or its ``model.safetensors``), a state dict or
            training checkpoint of the official DINOv2 code (``.pth``, ``.pt``, ``.safetensors``), or
            ``models:/name@alias`` of the registry.
        **keywords: For official files only, what a state dict cannot say: ``num_heads``, ``interpolate_offset``,
            ``interpolate_antialias``; ``patch_size`` is checked against the file.

    Returns:
        A ``torch.nn.Module`` with ``forward_features`` and ``get_intermediate_layers``.

    Raises:
        InputError: When nothing is there, or it is not a backbone.
    """
    if str(path_or_uri).startswith("models:/"):
        from dinomill.tracking import download

        _refuse(keywords, str(path_or_uri))
        return load_backbone(Path(download(str(path_or_uri))))
    path = Path(path_or_uri).expanduser()
    folder = path.parent if path.name == WEIGHTS_NAME and (path.parent / CONFIG_NAME).is_file() else path
    if folder.is_dir():
        _refuse(keywords, str(folder))
        return load_backbone(folder)
    if not path.exists():
        raise InputError(
            f"There is no {path}.",
            expected="a folder of an exported backbone, a .pth file, or models:/name@alias",
            action="check the path, or run the stage that writes it",
        )
    return load_official(path, **keywords)


def _refuse(keywords: dict[str, Any], where: str) -> None:
    if keywords:
        raise InputError(
            f"{where} has a configuration of its own.",
            found=", ".join(f"{key}={value!r}" for key, value in keywords.items()),
            action="leave these arguments out: they are for official files, which cannot say them",
        )
